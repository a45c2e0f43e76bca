"""What goes between server and worker: it comes back as it went, and lies are refused."""

import dataclasses
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import TypeAdapter, ValidationError
from strategies import specs

from pipeline.memory_plan import MemoryPlan
from pipeline.progress import Note, Restarted, Stage, StageStarted, StepDone
from pipeline.spec import Pixels
from server.workers.messages import (
    MAX_CHUNK_BYTES,
    MAX_INTEGER,
    MAX_PREVIEW_BYTES,
    Artifact,
    BadMessage,
    CancelledEvent,
    Chunk,
    Done,
    Failed,
    FrameToJudge,
    Idle,
    Loading,
    Preview,
    Ready,
    WorkerEvent,
    WorkOrder,
    decode_event,
    decode_work_order,
    encode_event,
    encode_work_order,
    is_terminal,
)

text = st.text(max_size=40)
seconds = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-MAX_INTEGER, MAX_INTEGER)
json_values = st.recursive(
    st.none() | st.booleans() | integers | seconds | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
json_objects = st.dictionaries(text, json_values, max_size=3)

EVENTS: dict[type[WorkerEvent], SearchStrategy[Any]] = {
    Loading: st.builds(Loading, text, seconds),
    Ready: st.builds(
        Ready,
        *(text, text, text, st.sampled_from(MemoryPlan), text),
        st.none() | text,
        st.dictionaries(text, text, max_size=5),
    ),
    StageStarted: st.builds(StageStarted, st.sampled_from(Stage), st.none() | seconds),
    StepDone: st.builds(StepDone, integers, integers, seconds, seconds),
    Note: st.builds(Note, text),
    Restarted: st.builds(Restarted, text),
    FrameToJudge: st.builds(FrameToJudge, st.binary(max_size=1000), integers),
    Preview: st.builds(Preview, st.binary(max_size=1000)),
    Chunk: st.builds(Chunk, st.binary(max_size=1000)),
    Artifact: st.builds(
        Artifact,
        **dict.fromkeys(("kind", "name", "content_type", "sha256"), text),
        **dict.fromkeys(("size", "width", "height", "frames"), integers),
    ),
    Done: st.builds(Done, text, st.dictionaries(text, seconds, max_size=5)),
    CancelledEvent: st.builds(CancelledEvent, st.none() | text),
    Failed: st.builds(
        Failed, code=text, message=text, field=st.none() | text, context=json_objects
    ),
    Idle: st.builds(Idle, st.sampled_from(MemoryPlan)),
}


def message(header: str | bytes, body: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else header.encode()
    return struct.pack(">I", len(encoded)) + encoded + body


def header_of(event: WorkerEvent) -> dict[str, Any]:
    header = json.loads(encode_event(event)[4:])
    assert isinstance(header, dict)
    return header


@given(st.one_of(*EVENTS.values()))
def test_every_event_arrives_as_it_was_sent(event: WorkerEvent) -> None:
    arrived = decode_event(encode_event(event))
    assert arrived == event
    assert type(arrived) is type(event)


def test_a_stage_and_a_plan_arrive_as_such_and_not_as_their_names() -> None:
    arrived = decode_event(encode_event(StageStarted(Stage.DECODE)))
    assert isinstance(arrived, StageStarted)
    assert arrived.stage is Stage.DECODE
    idle = decode_event(encode_event(Idle(MemoryPlan.OFFLOAD)))
    assert isinstance(idle, Idle)
    assert idle.memory is MemoryPlan.OFFLOAD


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(garbage: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_event(garbage)


@given(json_values)
def test_any_json_that_is_no_event_is_refused(header: Any) -> None:
    with pytest.raises(BadMessage):
        decode_event(message(json.dumps(header)))


@given(st.sampled_from([kind.__name__ for kind in EVENTS]), json_objects)
def test_fields_of_other_names_are_refused(name: str, fields: dict[str, Any]) -> None:
    unknown = {f"_{key}": value for key, value in fields.items()} | {"_": 0}
    with pytest.raises(BadMessage, match=name):
        decode_event(message(json.dumps({**unknown, "type": name})))


@given(st.data())
def test_a_changed_field_is_taken_only_if_it_has_the_declared_type(data: st.DataObject) -> None:
    """Pydantic's strict mode reads the same declarations, and must come to the same verdict."""
    without_bytes = EVENTS.keys() - {Chunk, FrameToJudge, Preview}
    event = data.draw(st.one_of(*(EVENTS[kind] for kind in EVENTS if kind in without_bytes)))
    header = header_of(event)
    name = data.draw(st.sampled_from([key for key in header if key != "type"]))
    header[name] = data.draw(json_values)
    fields = json.dumps({key: value for key, value in header.items() if key != "type"})
    try:
        expected = TypeAdapter(type(event)).validate_json(fields, strict=True)
    except ValidationError:
        with pytest.raises(BadMessage):
            decode_event(message(json.dumps(header)))
    else:
        assert decode_event(message(json.dumps(header))) == expected


TEXTS = {"kind": "video", "name": "a.mp4", "content_type": "video/mp4", "sha256": "0"}
VIDEO = Artifact(**TEXTS, size=5, width=96, height=64, frames=9)
SAMPLES: list[WorkerEvent] = [
    Loading("Reading the transformer", 0.5),
    Ready("abc", "cpu", "native", MemoryPlan.RESIDENT, "plain", None, {"torch": "2.13.0"}),
    StageStarted(Stage.TEXT, 3.0),
    StepDone(1, 35, 0.5, 17.0),
    Note("The prompt was cut."),
    Restarted("There was too little memory."),
    VIDEO,
    Done("exact", {"text": 0.1}),
    CancelledEvent("denoise"),
    Failed(code="value_error", message="No.", field="prompt", context={"a": 1}),
    Idle(MemoryPlan.OFFLOAD),
]

LIES: list[tuple[type[WorkerEvent], str, Any]] = [
    (Loading, "text", None),
    (Loading, "fraction", "0.5"),
    (Loading, "fraction", True),
    (Ready, "checkpoint_digest", 0),
    (Ready, "device", ["cpu"]),
    (Ready, "memory", "elsewhere"),
    (Ready, "memory", None),
    (StageStarted, "stage", "lunch"),
    (StageStarted, "stage", 3),
    (StageStarted, "stage", None),
    (StageStarted, "seconds_left", "soon"),
    (StepDone, "step", "x"),
    (StepDone, "step", 1.0),
    (StepDone, "step", True),
    (StepDone, "step", MAX_INTEGER + 1),
    (StepDone, "num_steps", None),
    (StepDone, "seconds_per_step", {}),
    (StepDone, "seconds_left", None),
    (StepDone, "seconds_left", float("nan")),
    (StepDone, "seconds_left", float("inf")),
    (Note, "message", {}),
    (Restarted, "message", None),
    (Note, "message", "half of a pair: \ud83d"),
    (Artifact, "name", None),
    (Artifact, "size", "5"),
    (Artifact, "size", 5.0),
    (Artifact, "frames", None),
    (Done, "tier", None),
    (Done, "stage_seconds", []),
    (Done, "stage_seconds", {"text": "long"}),
    (Done, "stage_seconds", None),
    (CancelledEvent, "stage", 1),
    (Idle, "memory", "auto"),
    (Idle, "memory", ["offload"]),
    (Failed, "code", None),
    (Failed, "message", 1),
    (Failed, "field", 4),
    (Failed, "context", []),
    (Failed, "context", {"deep": [{"limit": float("-inf")}]}),
    (Failed, "context", {"half of a pair: \ud83d": 1}),
]


@pytest.mark.parametrize(("kind", "field", "lie"), LIES)
def test_a_lying_worker_is_refused(kind: type[WorkerEvent], field: str, lie: Any) -> None:
    header = header_of(_sample(kind))
    assert field in header
    with pytest.raises(BadMessage):
        decode_event(message(json.dumps({**header, field: lie})))


def test_a_field_with_a_default_may_be_left_out() -> None:
    assert decode_event(message('{"type": "CancelledEvent"}')) == CancelledEvent()


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_a_field_without_a_default_may_not_be_left_out(event: WorkerEvent) -> None:
    header = header_of(event)
    for field in dataclasses.fields(event):
        if field.default is field.default_factory is dataclasses.MISSING:
            shorter = {name: value for name, value in header.items() if name != field.name}
            with pytest.raises(BadMessage, match=type(event).__name__):
                decode_event(message(json.dumps(shorter)))


@pytest.mark.parametrize("event", [*SAMPLES, Chunk(b"")])
def test_three_events_end_a_run(event: WorkerEvent) -> None:
    assert is_terminal(event) == (type(event) in (Done, CancelledEvent, Failed))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00\x00",
        message("[]"),
        message('{"type": "Chunk"}', bytes(MAX_CHUNK_BYTES + 1)),
        message('{"type": "Chunk", "data": "x"}', b"x"),
        message('{"type": "FrameToJudge"}', b"x"),
        message('{"type": "FrameToJudge", "index": "1"}', b"x"),
        message('{"type": "FrameToJudge", "index": 1}', bytes(MAX_CHUNK_BYTES + 1)),
        message('{"type": "Preview"}', bytes(MAX_PREVIEW_BYTES + 1)),
        message('{"type": "Idle"}', b"x"),
        message('{"type": ["Idle"]}'),
        message('{"type": "Idle", "type_": 1}'),
        message('{"type": "WorkOrder"}'),
        message('{"type": "Note", "message": "' + "9" * 10 + '"', b""),
        message('{"type": "Failed", "context": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        message('{"type": "Loading", "text": "", "fraction": 1e999}'),
        message('{"type": "Loading", "text": "", "fraction": ' + "9" * 5000 + "}"),
        message(b'{"type": "Note", "message": "\xff"}'),
    ],
    ids=lambda sent: repr(sent[:40]),
)
def test_crooked_messages_are_refused(sent: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_event(sent)


@pytest.mark.parametrize(
    "event", [Chunk(bytes(MAX_CHUNK_BYTES)), Preview(bytes(MAX_PREVIEW_BYTES))]
)
def test_the_longest_chunk_and_preview_are_taken(event: WorkerEvent) -> None:
    assert decode_event(encode_event(event)) == event


def test_a_log_line_that_is_no_text_is_sent_with_question_marks() -> None:
    assert decode_event(encode_event(Note("a\udcffb"))) == Note("a?b")


def test_a_number_that_is_none_is_refused_where_it_is_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode_event(StepDone(1, 2, 0.1, float("nan")))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Pixels, ...]:
    width, height = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rgb = st.binary(min_size=3 * width * height, max_size=3 * width * height)
    return tuple(Pixels(width, height, each) for each in draw(st.lists(rgb, min_size=1)))


orders = st.builds(
    WorkOrder,
    job_id=text,
    attempt=integers,
    spec=specs,
    media=st.dictionaries(text, pictures(), max_size=3),
)


@given(orders)
def test_every_work_order_arrives_as_it_was_sent(order: WorkOrder) -> None:
    assert decode_work_order(encode_work_order(order)) == order


def _sample(kind: type[WorkerEvent]) -> WorkerEvent:
    (event,) = (event for event in SAMPLES if type(event) is kind)
    return event
