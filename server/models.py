"""One request for a video and the states that it passes through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        """The kind of an infrastructure failure; None when the input is at fault."""
        kind = self.body.get("error_type")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A request that is not in the table yet.

    `input` holds the spec, the sources of its media and how the caller wants the output; a
    source is a URL or `{"artifact": id}`, never the bytes. `error` is set when the input is
    invalid: such a job is terminal from the start. `is_run` says that its caller waits on a
    connection. See `RequestOptions` for what callers may ask for besides.
    """

    id: str
    endpoint: str
    base_url: str
    key_id: str | None
    input: Mapping[str, Any]
    tier: str | None
    priority: int = 0
    webhook_url: str | None = None
    error: JobError | None = None
    idempotency_key: str | None = None
    body_sha256: str | None = None
    start_timeout_s: float | None = None
    store_io: bool = True
    no_retry: bool = False
    file_lifetime_s: float | None = None
    is_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the table of jobs, as it was when it was read. Times are Unix seconds.

    `input_refs` maps the name of each medium to the artefact of its prepared pixels, None until
    they are here. `result` maps each output to its artefact.
    """

    seq: int
    id: str
    endpoint: str
    base_url: str
    key_id: str | None
    status: JobStatus
    priority: int
    attempt: int
    worker_deaths: int
    cancel_requested: bool
    input: Mapping[str, Any]
    input_refs: Mapping[str, str] | None
    slot: str | None
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    result: Mapping[str, Any] | None
    error: JobError | None
    webhook_url: str | None
    body_sha256: str | None
    store_io: bool
    no_retry: bool
    file_lifetime_s: float | None

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
        return self.finished_at - self.started_at


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the person who asked for the video. `at` is Unix seconds."""

    at: float
    level: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSnapshot:
    """Where a job stands, read at one moment. `position` counts the jobs that go before it."""

    job: Job
    position: int
    lines: Sequence[LogLine]


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a run is; `step` of `num_steps` counts within the stage where it has steps."""

    stage: str
    step: int | None = None
    num_steps: int | None = None
    seconds_left: float | None = None


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
