"""fal's answer to an invalid input: a list of items, each of which names a field.

What an item repeats of the request is cut, in bytes, depth and number, because it is stored and
sent again with every result.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import InputError
from server.errors import RequestError

ERROR_PAGE = "https://docs.fal.ai/errors#"

MAX_DETAIL_BYTES = 64 * 1024
"""Of the JSON of all items together: it is stored, and sent again with every result."""

_LONGEST_ECHO = 200
"""Characters of one text of the caller's that an error repeats; it may be a whole picture."""

_LONGEST_MESSAGE = 2000
_ECHO_BYTES = 8 * 1024
"""About what one item repeats of a value that has other values in it."""

_ECHO_DEPTH = 8
_CUT = "…"
"""Stands for what is left out."""


class InvalidInput(RequestError):
    """The input cannot be used; `items` say which fields and why, in fal's shape.

    Of many items those are kept that fit into `MAX_DETAIL_BYTES`.
    """

    status = 422
    headers: Mapping[str, str] = {
        "x-fal-billable-units": "0",
        # fal's documents have both names.
        "x-fal-retryable": "false",
        "x-fal-needs-retry": "false",
    }

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self.items = _that_fit(items)
        super().__init__("; ".join(str(item["msg"]) for item in self.items))
        self.body = {"detail": self.items}

    @classmethod
    def from_error(cls, error: InputError, given: Any) -> "InvalidInput":
        """The pipeline's complaint about the field that was `given`."""
        loc = ("body", error.field)
        return cls([error_item(loc, str(error), error.code, given, error.context)])


def error_item(
    loc: Sequence[str | int],
    message: str,
    kind: str,
    given: Any,
    context: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One item of `detail`, as fal writes it."""
    item = {
        "loc": list(loc),
        "msg": message[:_LONGEST_MESSAGE],
        "type": kind,
        "url": f"{ERROR_PAGE}{kind}",
        "input": truncated(given),
    }
    return item | ({"ctx": truncated(context)} if context else {})


def truncated(value: Any) -> Any:
    """A value from outside in a form that is short and surely JSON."""
    return _Echo().of(value)


class _Echo:
    """Copies one value, until there is no room for more of it."""

    def __init__(self) -> None:
        self._room = _ECHO_BYTES

    def of(self, value: Any, depth: int = 0) -> Any:
        if not isinstance(value, Mapping | list | tuple):
            return self._leaf(value)
        if depth == _ECHO_DEPTH:
            return self._leaf(_CUT)
        self._room -= len("[], ")
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        copy: list[Any] = []
        for item in value:
            if self._room <= 0:
                return [*copy, _CUT]
            copy.append(self.of(item, depth + 1))
        return copy

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copy: dict[str, Any] = {}
        for key, item in value.items():
            if self._room <= 0:
                return copy | {_CUT: _CUT}
            copy[self._leaf(str(key))] = self.of(item, depth)
        return copy

    def _leaf(self, value: Any) -> Any:
        copy = _short(value)
        self._room -= _json_size(copy)
        return copy


def _short(value: Any) -> Any:
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float) and abs(value) < float("inf"):
        return value
    # What is refused is stored, too: PostgreSQL cannot look into a JSON that has this character.
    text = str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= _LONGEST_ECHO else f"{text[:_LONGEST_ECHO]}{_CUT}"


def _json_size(value: Any) -> int:
    """Bytes of the value as JSON in its longest form, with all but ASCII escaped."""
    return len(json.dumps(value)) + len(", ")


def _that_fit(items: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first items, as many as have room in one answer."""
    fitting, room = [], MAX_DETAIL_BYTES - len('{"detail": []}')
    for item in items:
        room -= _json_size(item)
        if room < 0:
            break
        fitting.append(item)
    return fitting
