"""The lines of the log: how many of a kind there may be, and that none of them raises."""

import io
import logging

import pytest
import structlog
from job_fixtures import Clock

from server.log.setup import MAX_OF_A_KIND, WITHIN_S, RepetitionLimit, configure_log


def written(limit: RepetitionLimit, message: object, *args: object) -> str | None:
    """What is written of a line; None if it is left out."""
    record = logging.LogRecord("server", logging.WARNING, "", 0, message, args, None)
    if not limit.filter(record):
        return None
    return str(record.msg["event"]) if isinstance(record.msg, dict) else record.getMessage()


def test_of_lines_that_say_the_same_some_are_written_and_the_others_counted() -> None:
    limit = RepetitionLimit(clock := Clock())
    lines = [written(limit, "Refused %s", number) for number in range(MAX_OF_A_KIND + 7)]
    assert lines[0] == "Refused 0"
    assert "more like this are left out" in str(lines[MAX_OF_A_KIND - 1])
    assert lines[MAX_OF_A_KIND:] == [None] * 7
    assert written(limit, {"event": "Something else", "job": 1}) == "Something else"

    clock.now += WITHIN_S
    assert written(limit, "Refused %s", "again") == "Refused again (7 more were left out)"
    assert written(limit, "Refused %s", "again") == "Refused again"


def test_values_make_no_kinds_of_their_own_and_memory_is_bounded() -> None:
    limit = RepetitionLimit(Clock())
    events = [{"event": "A picture crashed", "job": number} for number in range(100)]
    assert sum(written(limit, event) is not None for event in events) == MAX_OF_A_KIND
    # As asyncio writes of each connection.
    errors = [f"Fatal error on transport\nprotocol: {number}" for number in range(100)]
    assert sum(written(limit, error) is not None for error in errors) == MAX_OF_A_KIND


class FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no words for it")


def test_no_line_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr("sys.stderr", FullDisk())
    configure_log()
    log = structlog.get_logger("server")
    log.error("A worker is down", reason=Unprintable())
    try:
        raise RuntimeError
    except RuntimeError:
        log.exception("Unexpected error")
    logging.getLogger("uvicorn.error").warning("%d requests", "no number")
