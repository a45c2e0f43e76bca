"""Traces by OpenTelemetry's SDK, which reads the other variables of OpenTelemetry itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipeline.progress import StageStarted
from server.models import Job
from server.tracing.traces import Hear
from server.workers.messages import CancelledEvent, Done, Failed, RunEvent

_propagator = TraceContextTextMapPropagator()


class OtelTraces:
    """See `Traces`. No span has a prompt, a URL, a key, or anything else of a caller's."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "cosmos-serve"})
        resource = resource.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("cosmos-serve")

    @contextmanager
    def submit(self, endpoint: str, headers: Mapping[str, str]) -> Iterator[str | None]:
        """See `Traces.submit`."""
        parent = _propagator.extract(headers)
        attributes = {"cosmos.endpoint": endpoint}
        span = self._tracer.start_span("submit", parent, SpanKind.SERVER, attributes)
        try:
            yield _traceparent(span)
        finally:
            span.end()

    @contextmanager
    def run(self, job: Job, slot: str) -> Iterator[Hear]:
        """See `Traces.run`."""
        assert job.started_at is not None, "a job runs that was not claimed"
        submit = {} if job.traceparent is None else {"traceparent": job.traceparent}
        parent = _propagator.extract(submit)
        queue = self._tracer.start_span("queue", parent, start_time=_ns(job.submitted_at))
        queue.set_attribute("cosmos.request_id", job.id)
        queue.end(_ns(job.started_at))
        attributes: dict[str, str | int] = {
            "cosmos.request_id": job.id,
            "cosmos.endpoint": job.endpoint,
            "cosmos.attempt": job.attempt,
            "cosmos.slot": slot,
            # Unless the worker says how it ended.
            "cosmos.outcome": "interrupted",
        }
        span = self._tracer.start_span("run", parent, attributes=attributes)
        stages = _Stages(self._tracer, span)
        try:
            yield stages.hear
        finally:
            stages.end()
            span.end()

    def close(self) -> None:
        """See `Traces.close`."""
        self._provider.shutdown()


class _Stages:
    """The spans of a run's stages, one after the other, and how the run ended."""

    def __init__(self, tracer: Tracer, run: Span) -> None:
        self._tracer = tracer
        self._run = run
        self._within: Context = set_span_in_context(run)
        self._stage: Span | None = None

    def hear(self, event: RunEvent) -> None:
        match event:
            case StageStarted(stage):
                self.end()
                self._stage = self._tracer.start_span(stage.value, self._within)
            case Done():
                self._run.set_attribute("cosmos.outcome", "succeeded")
            case CancelledEvent():
                self._run.set_attribute("cosmos.outcome", "cancelled")
            case Failed():
                self._run.set_attribute("cosmos.outcome", event.code)
                self._run.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End the stage that goes on, if one does."""
        if self._stage is not None:
            self._stage.end()
        self._stage = None


def _traceparent(span: Span) -> str:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, set_span_in_context(span))
    return carrier["traceparent"]


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
