"""What goes between the server and a worker: work orders down, events up.

Each message is a JSON header and bytes, never pickle: a worker can be on another machine, and
what it sends is data. The header is an object whose `type` names the class; bytes follow it only
where the class carries some. No torch here.
"""

import dataclasses
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
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
    context: dict[str, Any] = dataclasses.field(default_factory=dict)


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


def encode_event(event: WorkerEvent) -> bytes:
    """The message for one event."""
    if isinstance(event, Chunk):
        return _pack({"type": "Chunk"}, event.data)
    return _pack({"type": type(event).__name__, **dataclasses.asdict(event)}, b"")


def decode_event(message: bytes) -> WorkerEvent:
    """Read one event.

    Raises:
        BadMessage: the bytes are not an event, or have a field of the wrong name.
    """
    header, body = _unpack(message)
    name = header.pop("type", None)
    if name not in _CLASSES:
        raise BadMessage(f"A worker sent a message of the unknown type {name!r}.")
    try:
        if name == "Chunk":
            return Chunk(body)
        if name == "StageStarted":
            header["stage"] = Stage(header["stage"])
        return _CLASSES[name](**header)
    except (TypeError, ValueError, KeyError) as error:
        raise BadMessage(f"A worker sent a {name} that cannot be read: {error}.") from error


def encode_work_order(order: WorkOrder) -> bytes:
    """The message for one work order; its media follow the header in the header's order."""
    header = {
        "job_id": order.job_id,
        "attempt": order.attempt,
        "spec": order.spec.to_json(),
        "media": [[name, p.width, p.height] for name, p in order.media.items()],
    }
    return _pack(header, b"".join(pixels.rgb for pixels in order.media.values()))


def decode_work_order(message: bytes) -> WorkOrder:
    """Read one work order. It comes from our own server, so a malformed one is our bug."""
    header, body = _unpack(message)
    media: dict[str, Pixels] = {}
    start = 0
    for name, width, height in header["media"]:
        size = width * height * 3
        media[name] = Pixels(width, height, body[start : start + size])
        start += size
    return WorkOrder(
        job_id=header["job_id"],
        attempt=header["attempt"],
        spec=VideoSpec.from_json(header["spec"]),
        media=media,
    )


def _pack(header: Mapping[str, Any], body: bytes) -> bytes:
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(encoded)), encoded, body))


def _unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        (length,) = _LENGTH.unpack_from(message)
        header = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    except (struct.error, ValueError) as error:
        raise BadMessage(f"A worker sent {len(message):,} bytes that are no message.") from error
    if not isinstance(header, dict):
        raise BadMessage("A worker sent a header that is not an object.")
    return header, message[_LENGTH.size + length :]
