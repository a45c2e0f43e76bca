"""Cursors: where the next page of a list begins, in a form that callers need not understand."""

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import TypeVar

from typing_extensions import TypedDict

from server.errors import BadRequest

_LARGEST = 2**53
"""A cursor counts no further than this."""

Item = TypeVar("Item")


class Paged(TypedDict):
    """Where the next page of a list begins, None on the last one."""

    next_cursor: str | None
    has_more: bool


def paged(next_: Sequence[float] | None) -> Paged:
    """The two fields of a page after which the list goes on at `next_`."""
    if next_ is None:
        return {"next_cursor": None, "has_more": False}
    text = json.dumps(list(next_), separators=(",", ":"))
    return {"next_cursor": urlsafe_b64encode(text.encode()).decode(), "has_more": True}


def read_cursor(cursor: str | None, *kinds: type[float]) -> tuple[float, ...] | None:
    """The numbers that `paged` was given, of these kinds.

    Raises:
        BadRequest: the cursor is not one of this list's.
    """
    if cursor is None:
        return None
    try:
        given = json.loads(urlsafe_b64decode(cursor.encode()))
        values = tuple(kind(value) for kind, value in zip(kinds, given, strict=True))
    except (ValueError, TypeError, OverflowError, RecursionError):
        values = (math.nan,)
    if not all(abs(value) < _LARGEST for value in values):
        raise BadRequest("cursor: this is no cursor that this list gave out.")
    return values


def slice_of(items: Sequence[Item], limit: int, cursor: str | None) -> tuple[list[Item], Paged]:
    """A page of a list that is at hand; its cursor counts the items before the next page."""
    (start,) = read_cursor(cursor, int) or (0,)
    begin = min(max(0, int(start)), len(items))
    end = begin + limit
    return list(items[begin:end]), paged((end,) if end < len(items) else None)
