"""What is traced of a request: the submit, the time in the queue, and each run with its stages.

A job's row has the `traceparent` of its submit, so what is traced of its runs belongs to the
caller's trace, also after a restart.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from server.config.errors import SettingsError
from server.config.settings import Settings
from server.models import Job
from server.workers.messages import RunEvent

Hear = Callable[[RunEvent], None]


class Traces(Protocol):
    """Takes note of requests and runs. None of it waits or fails."""

    def submit(
        self, endpoint: str, headers: Mapping[str, str], /
    ) -> AbstractContextManager[str | None]:
        """A block in which a request for a video is taken in; the `traceparent` for its job."""

    def run(self, job: Job, slot: str, /) -> AbstractContextManager[Hear]:
        """A block in which a job is run; what it gives is to hear the run's events."""

    def close(self) -> None:
        """Send what is not sent yet; it may take some seconds."""


class NoTraces:
    """Traces nothing."""

    def submit(self, *_: object) -> AbstractContextManager[None]:
        """See `Traces.submit`."""
        return nullcontext()

    def run(self, *_: object) -> AbstractContextManager[Hear]:
        """See `Traces.run`."""
        return nullcontext(lambda _: None)

    def close(self) -> None:
        """See `Traces.close`."""


def traces_of(settings: Settings) -> Traces:
    """What the settings ask for; OpenTelemetry's SDK is imported only if it is asked for.

    Raises:
        SettingsError: it is not installed.
    """
    if settings.traces_exporter == "none":
        return NoTraces()
    try:
        from server.tracing.otel import OtelTraces
    except ImportError as error:
        raise SettingsError(
            "OTEL_TRACES_EXPORTER=otlp needs OpenTelemetry's SDK, which the extra `otel` installs."
        ) from error
    return OtelTraces()
