"""The moments at which a server that is killed could lose something, each with a name.

Tests end the process at every one of them and look at what is left. A server that nobody armed
passes them by: no setting and nothing in the environment arms one.
"""

from collections.abc import Callable
from enum import StrEnum


class CommitPoint(StrEnum):
    """A transaction that others rely on. It is passed twice: ready to be committed, committed."""

    SUBMIT = "submit"
    INPUT = "input"
    CLAIM = "claim"
    RECORD = "record"
    END = "end"
    CANCEL = "cancel"
    GIVE_BACK = "give back"
    DEATH = "death"
    RECOVER = "recover"
    UPLOAD = "upload"
    WEBHOOK_CLAIM = "webhook claim"
    WEBHOOK_END = "webhook end"


FILE_WRITTEN = "file written"
"""A file is whole and on the disk, and does not have its name yet."""
FILE_NAMED = "file named"
"""It has its name, and no row knows it yet."""
WEBHOOK_SENT = "webhook sent"
"""The receiver has answered, and no row knows it yet."""


def before(step: CommitPoint) -> str:
    """The moment at which everything is written and nothing is committed."""
    return f"{step.value}, uncommitted"


def after(step: CommitPoint) -> str:
    """The moment at which it is committed, and nobody has been told."""
    return f"{step.value}, committed"


POINTS = (
    *(moment(step) for step in CommitPoint for moment in (before, after)),
    FILE_WRITTEN,
    FILE_NAMED,
    WEBHOOK_SENT,
)

_armed: dict[str, Callable[[], object]] = {}


def arm(point: str, action: Callable[[], object]) -> None:
    """Have `action` called, in whatever thread it is, whenever this process passes the point."""
    assert point in POINTS, f"there is no failpoint {point!r}"
    _armed[point] = action


def pass_point(point: str) -> None:
    """Pass a point."""
    if _armed:
        _armed.get(point, lambda: None)()
