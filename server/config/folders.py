"""The settings that name a folder, for commands that need no other setting."""

from pathlib import Path

from server.config.errors import PREFIX, SettingsError
from server.config.settings import Settings
from server.config.settings_file import read_setting
from weights.checkpoints import folders_in


def data_folder() -> Path:
    """The setting `data`, for a command that needs no other."""
    default: Path = Settings.model_fields["data"].default
    return _folder("data") or default


def weights_folder() -> Path | None:
    """The setting `weights`, for a command that needs no other; None where it is not set.

    Raises:
        SettingsError: it names several folders.
    """
    folder = _folder("weights")
    if folder is not None and len(folders_in(str(folder))) > 1:
        raise SettingsError(f"{PREFIX}WEIGHTS names several folders: say which one is meant")
    return folder


def _folder(name: str) -> Path | None:
    named = read_setting(name, Settings.model_fields)
    return Path(named) if named else None
