"""The form of the log's lines, and how many of one kind there may be."""

import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO

import structlog

MAX_OF_A_KIND = 20
WITHIN_S = 10.0
"""Of lines that say the same, no more than so many are written in so many seconds."""

_MAX_KINDS = 1000

_OURS = ("server", "worker")
"""The loggers whose news is written, too; those of libraries are heard from warnings on."""


def configure_log() -> None:
    """Write what structlog and the standard library log to stderr, in one form.

    Tracebacks are without the variables' values: these hold keys and prompts.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(
                    colors=sys.stderr.isatty(),
                    exception_formatter=structlog.dev.plain_traceback,
                ),
            ],
        )
    )
    handler.addFilter(RepetitionLimit())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


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
