"""Keep the server's own tasks alive when one piece of their work fails unforeseen."""

from collections.abc import Awaitable

import structlog

from server.errors import DiskFull

_log = structlog.get_logger("server")


async def completed(what: str, work: Awaitable[object]) -> bool:
    """Await `work` and say whether it came to its end.

    This is the API process's one broad `except`: without it a full disk, or an error of ours, on
    one job would stop the loop that serves all of them. The traceback goes to the log, but for
    that of a full disk, which takes a sentence.
    """
    try:
        await work
    except DiskFull as full:
        _log.error(str(full), during=what)
        return False
    except Exception:
        _log.exception("Unexpected error", during=what)
        return False
    return True
