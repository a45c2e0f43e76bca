"""The lines of the log: how many of a kind there may be, and that none of them raises."""

import io
import json
import logging
import warnings
from pathlib import Path

import pytest
import structlog
from job_fixtures import Clock

from server.log.setup import (
    MAX_OF_A_KIND,
    WITHIN_S,
    LogFormat,
    RepetitionLimit,
    configure_log,
)


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


def test_as_json_each_line_is_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("sys.stderr", stderr := io.StringIO())
    configure_log("json")
    structlog.get_logger("worker").info("A wörker is ready", slot="cuda0", path=Path("a"))
    try:
        raise RuntimeError("no disk")
    except RuntimeError:
        structlog.get_logger("server").exception("Unexpected error", job_id="7")
    logging.getLogger("uvicorn.error").warning("%d requests", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    logging.captureWarnings(False)

    ready, failed, requests, old = map(json.loads, stderr.getvalue().splitlines())
    assert ready.pop("timestamp").endswith("Z")
    assert ready == {
        "event": "A wörker is ready",
        "slot": "cuda0",
        "path": "PosixPath('a')",
        "level": "info",
        "logger": "worker",
    }
    assert (failed["level"], failed["job_id"]) == ("error", "7")
    assert "RuntimeError: no disk" in failed["exception"]
    assert (requests["event"], requests["logger"]) == ("3 requests", "uvicorn.error")
    assert old["logger"] == "py.warnings"


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_library_says_in_several_lines_is_one_of_the_log(
    monkeypatch: pytest.MonkeyPatch, form: LogFormat
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("sys.stderr", stderr := io.StringIO())
    configure_log(form)
    log = structlog.get_logger("server")
    log.warning("The connection was lost", why="server closed\n\tunexpectedly")
    logging.getLogger("asyncio").error("Fatal error on transport\nprotocol: %s", 1)
    logging.captureWarnings(False)

    lost, fatal = stderr.getvalue().splitlines()
    assert "server closed unexpectedly" in lost
    assert "Fatal error on transport protocol: 1" in fatal


def test_what_the_server_says_itself_is_not_said_by_a_library_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure_log()
    cut_off = "ASGI callable returned without completing response."
    signals = "SIGTERM handler is not set because current thread is not the main thread."
    for name, not_said in (("uvicorn.error", cut_off), ("ray._private.worker", signals)):
        # Ray has handlers of its own, so what comes out of them is not looked at.
        logger = logging.getLogger(name)
        for message in (cut_off, signals, "Something else"):
            record = logger.makeRecord(name, logging.WARNING, "", 0, message, (), None)
            assert bool(logger.filter(record)) == (message != not_said)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_line_raises(monkeypatch: pytest.MonkeyPatch, form: LogFormat) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr("sys.stderr", FullDisk())
    configure_log(form)
    log = structlog.get_logger("server")
    log.error("A worker is down", reason=Unprintable())
    try:
        raise RuntimeError
    except RuntimeError:
        log.exception("Unexpected error")
    logging.getLogger("uvicorn.error").warning("%d requests", "no number")
    logging.captureWarnings(False)
