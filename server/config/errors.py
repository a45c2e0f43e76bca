"""What is wrong with a setting, as a sentence for the person who set it."""

from collections.abc import Collection, Mapping
from typing import Any

from pydantic.fields import FieldInfo

PREFIX = "COSMOS_"


class SettingsError(Exception):
    """A setting is unknown, malformed or at odds with another; the message is a sentence."""


def sentence(error: Any, fields: Mapping[str, FieldInfo], options: Collection[str] = ()) -> str:
    """One pydantic error as a line that names the setting, its value and what is wanted.

    `options` are the settings that were given on the command line, and are named as there.
    """
    message = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return f"{message}."
    name = str(error["loc"][0])
    variable = name if name.isupper() else PREFIX + name.upper()
    if error["type"] == "missing":
        return f"Give {_option(name)}, or set {variable}: {fields[name].description}."
    if error["type"] == "extra_forbidden":
        return f"{name!r} is not a setting."
    shown = "…" if name in ("key", "database") else repr(error["input"])
    named = _option(name) if name in options else variable
    return f"{named}={shown}: {message}."


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
