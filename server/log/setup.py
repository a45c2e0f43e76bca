"""The form of the log's lines, and how many of one kind there may be."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Literal, TextIO

import structlog

MAX_OF_A_KIND = 20
WITHIN_S = 10.0
"""Of lines that say the same, no more than so many are written in so many seconds."""

_MAX_KINDS = 1000

LogFormat = Literal["text", "json"]

_OURS = ("server", "worker")
"""The loggers whose news is written, too; those of libraries are heard from warnings on."""

_NO_NEWS = {
    # We say ourselves that an answer was cut off, and why.
    ("uvicorn.error", "ASGI callable returned without completing response."),
    # So it is meant: a signal ends the server, which leaves the cluster.
    (
        "ray._private.worker",
        "SIGTERM handler is not set because current thread is not the main thread.",
    ),
}
"""Lines of libraries that are left out, by their loggers."""


def configure_log(form: LogFormat = "text") -> None:
    """Write what structlog and the standard library log to stderr, in one form.

    As JSON, each line is an object: `event` says what happened, `timestamp`, `level` and `logger`
    stand beside it, `exception` is a traceback, and the other values are of the event.
    Tracebacks are without the variables' values: these hold keys and prompts.
    """
    shared: list[structlog.typing.Processor] = [
        _fold,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=_RENDERING[form](),
        )
    )
    handler.addFilter(RepetitionLimit())
    # Libraries warn on stderr by themselves, else.
    logging.captureWarnings(form == "json")
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in {name for name, _ in _NO_NEWS}:
        logging.getLogger(name).addFilter(_is_news)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _is_news(record: logging.LogRecord) -> bool:
    return (record.name, record.msg) not in _NO_NEWS


def _fold(
    _logger: object, _method: str, values: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put the lines of what a library said, such as the `why` of an event, on one."""
    return {
        name: " ".join(value.split()) if isinstance(value, str) and "\n" in value else value
        for name, value in values.items()
    }


def _as_text() -> list[structlog.typing.Processor]:
    plain = structlog.dev.plain_traceback
    colours = sys.stderr.isatty()
    return [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain),
    ]


def _as_json() -> list[structlog.typing.Processor]:
    return [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ]


_RENDERING: Mapping[LogFormat, Callable[[], list[structlog.typing.Processor]]] = {
    "text": _as_text,
    "json": _as_json,
}


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and leaves out those that cannot be made or written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Do nothing: who logs something, as in an `except`, must not meet an exception there."""


class RepetitionLimit(logging.Filter):
    """Leaves out lines of which there are too many of their kind, and says so.

    It is what keeps strangers, who can cause some lines as often as they like, from filling the
    disk. A kind is what a logger says in the same words: the values beside them do not count.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        # Of asyncio's lines, the first names the kind, and the others are of one connection.
        words = _words(record).partition("\n")[0]
        if len(self._kinds) >= _MAX_KINDS:
            self._kinds.clear()
        kind = self._kinds.setdefault((record.name, words), _Kind(self._now()))
        if self._now() - kind.since >= WITHIN_S:
            if kind.count > MAX_OF_A_KIND:
                _add(record, f"({kind.count - MAX_OF_A_KIND} more were left out)")
            kind.since, kind.count = self._now(), 0
        kind.count += 1
        if kind.count == MAX_OF_A_KIND:
            _add(record, "(more like this are left out for some seconds)")
        return kind.count <= MAX_OF_A_KIND


class _Kind:
    """Lines of one kind since some time."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.count = 0


def _words(record: logging.LogRecord) -> str:
    """What the record says, without the values: structlog's event, or the format of a message."""
    return str(record.msg["event"] if isinstance(record.msg, dict) else record.msg)


def _add(record: logging.LogRecord, words: str) -> None:
    """Let the record say this as well."""
    if isinstance(record.msg, dict):
        record.msg = {**record.msg, "event": f"{record.msg['event']} {words}"}
    else:
        record.msg = f"{record.msg} {words}"
