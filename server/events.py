"""What goes between the server and a worker: work orders down, events up.

Each message is a JSON header and bytes, never pickle: a worker can be on another machine, and
what it sends is data. The header is an object whose `type` names the class; bytes follow it only
where the class carries some. No torch here.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.progress import Note, Stage, StageStarted, StepDone
from pipeline.spec import Pixels, VideoSpec

MAX_CHUNK_BYTES = 1024 * 1024
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One run of one job. `media` maps a name (`image`) to a prepared picture."""

    job_id: str
    attempt: int
    spec: VideoSpec
    media: Mapping[str, Pixels]


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker is loading its model; `fraction` is of the checkpoint's bytes, 0 to 1."""

    text: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its model and can take work."""

    checkpoint_digest: str
    device: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the artefact being sent, at most 1 MiB."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The chunks sent since the last one are this file; nothing is published without it."""

    kind: str
    name: str
    content_type: str
    size: int
    sha256: str
    frames: int


@dataclass(frozen=True, slots=True)
class Done:
    """The run is complete. `stage_seconds` maps a stage to the seconds it took."""

    tier: str
    stage_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class CancelledEvent:
    """The run stopped because it was asked to."""

    stage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The run failed. `field` and `context` are set when the caller's input is at fault."""

    code: str
    message: str
    retryable: bool = False
    field: str | None = None
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idle:
    """The worker has let go of the last run and can take the next one."""


RunEvent = StageStarted | StepDone | Note | Chunk | Artifact | Done | CancelledEvent | Failed
"""What one run sends. Done, CancelledEvent and Failed end it."""

WorkerEvent = Loading | Ready | Idle | RunEvent

_CLASSES: dict[str, type[WorkerEvent]] = {
    cls.__name__: cls
    for cls in (
        Loading,
        Ready,
        StageStarted,
        StepDone,
        Note,
        Chunk,
        Artifact,
        Done,
        CancelledEvent,
        Failed,
        Idle,
    )
}


class BadMessage(Exception):
    """A worker sent something that is not a message; the sentence says what."""


def is_terminal(event: WorkerEvent) -> bool:
    """Whether this event ends its run."""
    return isinstance(event, Done | CancelledEvent | Failed)
