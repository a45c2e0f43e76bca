"""The settings file: TOML, with the settings' own names."""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from server.config.errors import PREFIX, SettingsError


def read_settings_file(fields: Mapping[str, FieldInfo]) -> dict[str, Any]:
    """The settings of the file that COSMOS_CONFIG names; none if it names none.

    An empty text is no setting, but for the GPUs that CUDA_VISIBLE_DEVICES shows: then none.

    Raises:
        SettingsError: it cannot be read, or has a name that is no setting's.
    """
    path = os.environ.get(f"{PREFIX}CONFIG")
    if not path:
        return {}
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"COSMOS_CONFIG={path} cannot be read: {error}.") from error
    known = fields.keys() - {"config"}
    for name in given:
        if name not in known:
            closest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
            raise SettingsError(f"{path}: {name} is not a setting. Did you mean {closest}?")
    # An alias is the only name that pydantic knows of its field.
    aliases = {name: fields[name].validation_alias for name in given}
    return {
        str(aliases[name] or name): value
        for name, value in given.items()
        if value != "" or aliases[name]
    }


def read_setting(name: str, fields: Mapping[str, FieldInfo]) -> str | None:
    """One setting as it is given, for a command that needs no other; None if it is not."""
    in_file = read_settings_file(fields)
    return os.environ.get(PREFIX + name.upper()) or in_file.get(name)
