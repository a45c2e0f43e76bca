"""One request for a video and the states that it passes through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MAX_WORKER_DEATHS = 2
"""A job that so many workers died on is given up."""

FETCHED_LIFETIME_S = 600.0
"""How long a job that is not to be kept stays, once its caller has the whole output."""
UNFETCHED_LIFETIME_S = 86_400.0
"""How long it stays if nobody fetches the output."""


class JobStatus(StrEnum):
    """fal's three states; a failed or cancelled job is COMPLETED and has an error."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.IN_QUEUE: frozenset({JobStatus.IN_PROGRESS, JobStatus.COMPLETED}),
    JobStatus.IN_PROGRESS: frozenset({JobStatus.IN_QUEUE, JobStatus.COMPLETED}),
    JobStatus.COMPLETED: frozenset(),
}
"""The moves allowed: a running job may be put back, a completed one never changes."""


class CancelAnswer(StrEnum):
    """What fal tells a caller who cancels."""

    REQUESTED = "CANCELLATION_REQUESTED"
    ALREADY_COMPLETED = "ALREADY_COMPLETED"


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: the HTTP answer that its result gives. `body` is in one of fal's shapes."""

    http_status: int
    body: Mapping[str, Any]

    @property
    def error_type(self) -> str | None:
        """The kind of a failure; None when the input is at fault."""
        kind = self.body.get("error_type")
        if kind is None and self.http_status >= 500:
            # fal has some failures in the shape of those of the input.
            kind = self.body["detail"][0]["type"]
        return None if kind is None else str(kind)

    @property
    def message(self) -> str:
        """What went wrong, in sentences."""
        detail = self.body["detail"]
        return detail if isinstance(detail, str) else "; ".join(item["msg"] for item in detail)


def infrastructure_error(message: str, error_type: str) -> JobError:
    """The failure of a run for which the caller's input is not to blame."""
    return JobError(500, {"detail": message, "error_type": error_type})


CANCELLED = JobError(
    499, {"detail": "Request cancelled by the client.", "error_type": "client_cancelled"}
)

TOO_LATE = JobError(504, {"detail": "Request timed out", "error_type": "request_timeout"})
"""The end of a job that was not started within the time that its caller gave it."""


NO_VERDICT = JobError(
    503,
    {
        "detail": [
            {
                "loc": ["body"],
                "msg": "The content checker gave no answer. Try again later.",
                "type": "downstream_service_unavailable",
                "url": "https://docs.fal.ai/errors#downstream_service_unavailable",
                "input": None,
            }
        ]
    },
)
"""The end of a job that the operator's guardrail gave no verdict on for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """How a caller wants a request to be handled.

    `start_timeout_s` is how long it may wait to be started, `file_lifetime_s` how long its output
    files are kept. Without `store_io` neither input nor output stay in the tables.
    """

    priority: int = 0
    start_timeout_s: float | None = None
    store_io: bool = True
    no_retry: bool = False
    file_lifetime_s: float | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob(RequestOptions):
    """A request that is not in the table yet.

    `input` holds the spec, the sources of its media and how the caller wants the output; a
    source is a URL or `{"artifact": id}`, never the bytes. `input_refs` are the prepared media,
    None while they are not here. `error` is set when the input is invalid: such a job is terminal
    from the start. `is_run` says that its caller waits on a connection, and `traceparent` which
    trace it belongs to.
    """

    id: str
    endpoint: str
    base_url: str
    key_id: str | None
    input: Mapping[str, Any]
    tier: str | None
    input_refs: Mapping[str, str] | None = None
    webhook_url: str | None = None
    error: JobError | None = None
    body_sha256: str | None = None
    is_run: bool = False
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the table of jobs, as it was when it was read. Times are Unix seconds."""

    seq: int
    """Its place in the order in which jobs came; never used twice."""
    id: str
    """The request id that the caller was given."""
    endpoint: str
    """The endpoint's id, such as `fal-ai/cosmos-predict-2.5/image-to-video`."""
    base_url: str
    """What every URL in its answers begins with: the address by which its caller reached us."""
    key_id: str | None
    """The key that it was submitted with; None where the server asks for no key."""
    status: JobStatus
    """Where it is in its life; see `TRANSITIONS`."""
    priority: int
    """Jobs of a higher priority are claimed first."""
    attempt: int
    """How many runs were begun; the number of the run that may write to it."""
    worker_deaths: int
    """How many workers died on it; see `MAX_WORKER_DEATHS`."""
    cancel_requested: bool
    """Whether its caller asked for it to be stopped."""
    input: Mapping[str, Any]
    """The spec, the sources of its media and how the caller wants the output."""
    input_refs: Mapping[str, str] | None
    """The artefact of each medium's prepared pixels, by name; None until they are here."""
    slot: str | None
    """The slot that runs it or ran it last; None while it waits."""
    submitted_at: float
    """When it was committed."""
    started_at: float | None
    """When its last run was claimed; None while it waits."""
    finished_at: float | None
    """When it was completed."""
    result: Mapping[str, Any] | None
    """The artefact of each output, the seed, the seconds of each stage, and what rounded; None
    without a video."""
    error: JobError | None
    """Why it failed or was cancelled."""
    webhook_url: str | None
    """Where its end is told."""
    body_sha256: str | None
    """The hash of the endpoint and the request's body, which tells a repeated submit."""
    store_io: bool
    """Whether input and output stay in the tables after its end."""
    no_retry: bool
    """Whether it fails at the first worker that dies on it."""
    file_lifetime_s: float | None
    """How long its output files are kept, in seconds; None is without limit."""
    traceparent: str | None
    """The submit in its trace, as W3C's Trace Context writes it; None if it is not traced."""

    @property
    def sync_mode(self) -> bool:
        """Whether the output is to hold the video itself, and not its URL."""
        return bool(self.input.get("sync_mode", False))

    @property
    def is_kept(self) -> bool:
        """Whether the job stays in the tables once its caller has the output."""
        return self.store_io and not self.sync_mode

    @property
    def done(self) -> bool:
        return self.status is JobStatus.COMPLETED

    @property
    def inference_seconds(self) -> float | None:
        """Seconds from the claim to the end; None if the job never ran or is not done."""
        if self.started_at is None or self.finished_at is None:
            return None
        # A command that cancels a job counts by a clock that may have been set.
        return max(0.0, self.finished_at - self.started_at)


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the person who asked for the video. `at` is Unix seconds."""

    at: float
    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What is to be expected of a request, by what the server has measured; None is unknown.

    `stage_seconds` maps each stage of its video to seconds. `position` counts the jobs that go
    before it, `wait_s` is the seconds until it starts, and `starts_at` the Unix time of that.
    """

    stage_seconds: Mapping[str, float] | None
    position: int
    wait_s: float | None
    starts_at: float | None

    @property
    def seconds(self) -> float | None:
        """All stages together."""
        return None if self.stage_seconds is None else sum(self.stage_seconds.values())


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a run is: the stage it is in, and the denoising steps that it has done, if any."""

    stage: str
    step: int | None = None
    num_steps: int | None = None


@dataclass(frozen=True, slots=True)
class RunUpdate:
    """What a run has to tell since its last update: lines, and how far it is, if that is new."""

    job_id: str
    attempt: int
    lines: Sequence[LogLine]
    progress: JobProgress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """Where a job stands, read at one moment. `position` counts the jobs that go before it.

    `progress` is that of its run, while it has one that has told of it. An estimate, which a job
    has that waits, changes with time alone: two snapshots are equal without it.
    """

    job: Job
    position: int
    lines: Sequence[LogLine]
    progress: JobProgress | None = None
    estimate: Estimate | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredArtifact:
    """A file in the artefact store, as its row describes it. `size` is in bytes."""

    id: str
    kind: str
    name: str
    content_type: str
    size: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
