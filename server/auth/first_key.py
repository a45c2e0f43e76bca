"""Where a server's first key comes from: its settings, or the first start."""

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path

from server.auth.key_store import KeyStore
from server.config.errors import SettingsError
from server.config.settings import Settings
from server.data_folder import read_or_make
from server.keys import ApiKey, Credential

KEY_FILE = "key"


@dataclass(frozen=True, slots=True)
class FirstKey:
    """The key that a first start made. It is nowhere else than in the file."""

    text: str = field(repr=False)
    file: Path

    def announcement(self, is_terminal: bool) -> str:
        """What to print of it, once. Output that is no terminal may be kept as a log."""
        where = f"It is in {self.file}, which only this user may read."
        if is_terminal:
            return f"Callers need a key, and this is the first: FAL_KEY={self.text}\n{where}"
        shown = shlex.quote(str(self.file))
        return (
            f"Callers need a key, and the first has been made. {where}\n"
            f"To read it: cat {shown}, or in a container: docker exec CONTAINER cat {shown}"
        )


def configured_key(settings: Settings) -> ApiKey | None:
    """The key that the settings name, None if they name none."""
    if settings.key_file is not None:
        credential = _read(settings.key_file)
        return ApiKey.from_credential(credential, "COSMOS_KEY_FILE", created_at=time.time())
    if settings.key is None:
        return None
    text = settings.key.get_secret_value()
    credential_of_key = Credential.parse(text)
    assert credential_of_key is not None, "the settings let a malformed key through"
    return ApiKey.from_credential(credential_of_key, "COSMOS_KEY", created_at=time.time())


def make_first_key(store: KeyStore, folder: Path) -> FirstKey | None:
    """Make a key for a data folder that never had any; None if it had.

    A file without a row is of a start that was cut short in between: its key is taken.
    """
    if store.all():
        return None
    path = folder / KEY_FILE
    read_or_make(path, lambda: f"{Credential.new().text}\n".encode())
    credential = _read(path)
    if not store.add_first(ApiKey.from_credential(credential, "first", created_at=time.time())):
        # Another server of the same database was quicker, and its folder has the key.
        path.unlink()
        return None
    return FirstKey(credential.text, path)


def _read(path: Path) -> Credential:
    try:
        credential = Credential.parse(path.read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}.") from error
    if credential is None:
        raise SettingsError(f"{path} holds no key of the form id:secret.")
    return credential
