"""What goes between the server and a worker: work orders down, events up.

Each message is a JSON header and bytes, never pickle: a worker can be on another machine, and
what it sends is data. The header is an object whose `type` names the class; bytes follow it only
where the class carries some. No torch here.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from pipeline.spec import Pixels, VideoSpec, pictures_in

MAX_CHUNK_BYTES = 1024 * 1024
MAX_PREVIEW_BYTES = 256 * 1024
MAX_INTEGER = 2**63 - 1
"""The largest integer in a message: a table can hold it."""

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOrder:
    """One run of one job.

    `media` maps a name to prepared pictures of one size: `image` to the first frame, `video` to
    the last pictures of a clip.
    """

    job_id: str
    attempt: int
    spec: VideoSpec
    media: Mapping[str, Sequence[Pixels]]


@dataclass(frozen=True, slots=True)
class Loading:
    """A worker is loading its model; `fraction` is of the checkpoint's bytes, 0 to 1."""

    text: str
    fraction: float


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has loaded its model and can take work.

    `attention` is the backend that it chose, `memory` the plan by which its model was placed.
    `kernels` is `fused` or `plain`, and `kernels_problem` says why they are plain on a GPU.
    `versions` are those of the libraries that a video's last bits depend on, by name.
    """

    checkpoint_digest: str
    device: str
    attention: str
    memory: MemoryPlan
    kernels: str
    kernels_problem: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next bytes of the artefact being sent, at most 1 MiB."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FrameToJudge:
    """Frame number `index` of the video as a JPEG of at most 1 MiB; the worker waits for a verdict.

    The answer is a `Verdict` (`server.workers.verdicts`).
    """

    data: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Preview:
    """The video as it is so far: an animated WebP file of at most 256 KiB. It is kept nowhere."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The chunks sent since the last one are this file; nothing is published without it.

    Width and height are the file's own: a GIF may be smaller than the frames that it was made of.
    """

    kind: str
    name: str
    content_type: str
    size: int
    sha256: str
    width: int
    height: int
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
    field: str | None = None
    context: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idle:
    """The worker has let go of the last run and can take the next one.

    `memory` is the plan that it follows now: a run may have changed it.
    """

    memory: MemoryPlan


RunEvent = (
    StageStarted
    | StepDone
    | Note
    | Restarted
    | FrameToJudge
    | Preview
    | Chunk
    | Artifact
    | Done
    | CancelledEvent
    | Failed
)
"""What one run sends. Done, CancelledEvent and Failed end it."""

WorkerEvent = Loading | Ready | Idle | RunEvent

_MAX_BYTES: Mapping[type[WorkerEvent], int] = {
    Chunk: MAX_CHUNK_BYTES,
    FrameToJudge: MAX_CHUNK_BYTES,
    Preview: MAX_PREVIEW_BYTES,
}
"""The events whose `data` follows their header."""

_CLASSES: dict[str, type[WorkerEvent]] = {cls.__name__: cls for cls in get_args(WorkerEvent)}


class BadMessage(Exception):
    """A worker sent something that is not a message; the sentence says what."""


def is_terminal(event: WorkerEvent) -> bool:
    """Whether this event ends its run."""
    return isinstance(event, Done | CancelledEvent | Failed)


def encode_event(event: WorkerEvent) -> bytes:
    """The message for one event."""
    if isinstance(event, Chunk | Preview):
        return _pack({"type": type(event).__name__}, event.data)
    if isinstance(event, FrameToJudge):
        return _pack({"type": "FrameToJudge", "index": event.index}, event.data)
    return _pack({"type": type(event).__name__, **dataclasses.asdict(event)}, b"")


def decode_event(message: bytes) -> WorkerEvent:
    """Read one event. A worker may be broken or lie: nothing of what it sends is trusted.

    Raises:
        BadMessage: the bytes are not an event, or a field is missing, unknown, or of a type that
            its class does not declare.
    """
    header, body = _unpack(message)
    name = header.pop("type", None)
    if not isinstance(name, str) or name not in _CLASSES:
        raise BadMessage(f"A worker sent a message of the unknown type {name!r:.100}.")
    try:
        return _event(_CLASSES[name], header, body)
    except (TypeError, ValueError, KeyError) as error:
        raise BadMessage(f"A worker sent a {name} that cannot be read: {error}.") from error


def _event(kind: type[WorkerEvent], fields: dict[str, Any], body: bytes) -> WorkerEvent:
    if kind in _MAX_BYTES:
        if len(body) > _MAX_BYTES[kind]:
            raise ValueError(f"it has {len(body):,} bytes, and at most {_MAX_BYTES[kind]:,} may be")
        if "data" in fields:
            raise TypeError("its data is in its header")
        fields["data"] = body
    elif body:
        raise ValueError(f"{len(body):,} bytes follow its header")
    for name, declared in get_type_hints(kind).items():
        if name not in fields:
            continue
        if declared in (Stage, MemoryPlan):
            fields[name] = declared(fields[name])
        elif not _is(fields[name], declared):
            raise TypeError(f"{name} is of the type {type(fields[name]).__name__}")
    return kind(**fields)


def _is(value: Any, declared: Any) -> bool:
    """Whether a value read from JSON has a type declared by an event. A bool is no number."""
    if get_origin(declared) is UnionType:
        return any(_is(value, option) for option in get_args(declared))
    if get_origin(declared) is dict:
        _, of_values = get_args(declared)
        return isinstance(value, dict) and all(_is(v, of_values) for v in value.values())
    if declared is float:
        return type(value) in (float, int)
    return declared is Any or type(value) is declared


def encode_work_order(order: WorkOrder) -> bytes:
    """The message for one work order; its pictures follow the header in the header's order."""
    header = {
        "job_id": order.job_id,
        "attempt": order.attempt,
        "spec": order.spec.to_json(),
        "media": [
            [name, len(pictures), pictures[0].width, pictures[0].height]
            for name, pictures in order.media.items()
        ],
    }
    pictures = (picture for pictures in order.media.values() for picture in pictures)
    return _pack(header, b"".join(picture.rgb for picture in pictures))


def decode_work_order(message: bytes) -> WorkOrder:
    """Read one work order. It comes from our own server, so a malformed one is our bug."""
    header, body = _unpack(message)
    media: dict[str, Sequence[Pixels]] = {}
    start = 0
    for name, count, width, height in header["media"]:
        size = count * width * height * 3
        media[name] = pictures_in(body[start : start + size], width, height)
        start += size
    return WorkOrder(
        job_id=header["job_id"],
        attempt=header["attempt"],
        spec=VideoSpec.from_json(header["spec"]),
        media=media,
    )


def _pack(header: Mapping[str, Any], body: bytes) -> bytes:
    # A log line may hold bytes of a file name that are no text: they are sent as question marks.
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    encoded = text.encode(errors="replace")
    return b"".join((_LENGTH.pack(len(encoded)), encoded, body))


def _unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        (length,) = _LENGTH.unpack_from(message)
        header = _read_json(message[_LENGTH.size : _LENGTH.size + length])
    except (struct.error, ValueError, RecursionError) as error:
        raise BadMessage(f"There came {len(message):,} bytes that are no message.") from error
    if not isinstance(header, dict):
        raise BadMessage("There came a message whose header is not an object.")
    return header, message[_LENGTH.size + length :]


def _read_json(text: bytes) -> Any:
    """Read JSON whose every value can be written again: to a table, to a client."""
    value = json.loads(
        text, parse_int=_integer, parse_float=_finite_float, parse_constant=_finite_float
    )
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    return value


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) > MAX_INTEGER:
        raise ValueError(f"{text} is too large")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not finite")
    return value
