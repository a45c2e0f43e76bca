"""A request's trace: the submit, the queue, the run and its stages, within the caller's own."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from asgi_calls import app_of
from mcp_calls import call
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from paths import ROOT
from queue_calls import SUBMIT, result_of, submit, until
from servers import APP, ENDPOINT, request_of, serving, settings_in
from video_calls import SHORT, VIDEOS, create, until_it_is

from server.config.errors import SettingsError
from server.tracing.traces import NoTraces, traces_of

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
PROMPT = "a secret that no span repeats"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What takes the place of the exporter of a server whose traces are on."""
    memory = InMemorySpanExporter()
    monkeypatch.setattr("server.tracing.otel.OTLPSpanExporter", lambda: memory)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    return memory


def spans_of(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """All spans by their names, which are different ones."""
    spans = exporter.get_finished_spans()
    found = {span.name: span for span in spans}
    assert len(found) == len(spans)
    return found


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_a_trace_goes_from_the_caller_to_the_worker_s_stages(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        answer = await client.post(SUBMIT, json=request_of(PROMPT), headers=HEADERS)
        await result_of(client, answer.json()["request_id"])
    spans = spans_of(exporter)
    stages = ("text", "denoise", "decode", "encode")
    assert spans.keys() == {"submit", "queue", "run", *stages}
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert f"{parent_of(spans['submit']):016x}" == CALLER
    for name in ("queue", "run"):
        assert parent_of(spans[name]) == id_of(spans["submit"])
    for name in stages:
        assert parent_of(spans[name]) == id_of(spans["run"])
    run = spans["run"].attributes or {}
    assert run["cosmos.outcome"] == "succeeded"
    assert run["cosmos.request_id"] == answer.json()["request_id"]
    assert run["cosmos.endpoint"] == ENDPOINT
    assert spans["run"].resource.attributes["service.name"] == "cosmos-serve"
    assert PROMPT not in str([span.to_json() for span in spans.values()])


async def by_videos(client: httpx.AsyncClient) -> None:
    video = await create(client, PROMPT, headers=HEADERS)
    await until_it_is(client, video, "completed")


async def by_sync(client: httpx.AsyncClient) -> None:
    body = {"prompt": PROMPT, **SHORT}
    answer = await client.post(f"{VIDEOS}/sync", json=body, headers=HEADERS)
    assert answer.status_code == 200, answer.text


async def by_mcp(client: httpx.AsyncClient) -> None:
    arguments = {"endpoint_id": f"{APP}/text-to-video", "input": {"prompt": PROMPT, **SHORT}}
    assert "video" in await call(client, HEADERS, "run_model", **arguments)


@pytest.mark.parametrize("ask", [by_videos, by_sync, by_mcp])
async def test_a_video_that_is_asked_for_by_another_api_is_traced_as_well(
    tmp_path: Path,
    exporter: InMemorySpanExporter,
    ask: Callable[[httpx.AsyncClient], Awaitable[None]],
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        await ask(client)
    spans = spans_of(exporter)
    assert spans.keys() == {"submit", "queue", "run", "text", "denoise", "decode", "encode"}
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {TRACE}
    assert f"{parent_of(spans['submit']):016x}" == CALLER
    assert (spans["submit"].attributes or {})["cosmos.endpoint"] == f"{APP}/text-to-video"
    assert parent_of(spans["run"]) == id_of(spans["submit"])
    assert PROMPT not in str([span.to_json() for span in spans.values()])


async def test_a_trace_survives_that_the_server_is_started_again(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    settings = settings_in(tmp_path)
    async with serving(settings) as client:
        await client.post("/admin/queue/pause")
        answer = await client.post(SUBMIT, json=request_of(), headers=HEADERS)
    (sent,) = exporter.get_finished_spans()
    exporter.clear()
    exporter._stopped = False
    async with serving(settings) as client:
        await client.post("/admin/queue/resume")
        await result_of(client, answer.json()["request_id"])
    spans = spans_of(exporter)
    assert "submit" not in spans
    assert parent_of(spans["run"]) == parent_of(spans["queue"]) == id_of(sent)


async def test_a_run_that_fails_says_how_and_a_submit_without_a_trace_begins_one(
    tmp_path: Path, exporter: InMemorySpanExporter
) -> None:
    async with serving(settings_in(tmp_path)) as client:
        await until(client, await submit(client, "raise decode"), "COMPLETED")
    spans = spans_of(exporter)
    assert spans["submit"].parent is None
    assert spans["run"].status.status_code is StatusCode.ERROR
    assert (spans["run"].attributes or {})["cosmos.outcome"] == "internal_error"
    assert "encode" not in spans


async def test_without_traces_nothing_is_kept_of_one(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    assert isinstance(traces_of(settings), NoTraces)
    async with serving(settings) as client:
        answer = await client.post(SUBMIT, json=request_of(), headers=HEADERS)
        store = app_of(client).state.services.store
        assert store.job(answer.json()["request_id"]).traceparent is None


def test_without_traces_the_sdk_is_not_imported() -> None:
    program = (
        "import sys, server.app; "
        "print([name for name in sys.modules if 'opentelemetry.sdk' in name or 'otlp' in name])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"


def test_traces_without_the_extra_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.delitem(sys.modules, "server.tracing.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match="the extra `otel`"):
        traces_of(settings_in(tmp_path))
