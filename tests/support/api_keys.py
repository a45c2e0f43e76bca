"""Keys for tests, put into the table of a server's data folder."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from server.auth.key_store import KeyStore
from server.config.settings import Settings
from server.db.database import Database
from server.keys import ApiKey, Credential


@contextmanager
def keys_of(settings: Settings) -> Iterator[KeyStore]:
    """The table, opened beside the server."""
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database.of(settings)
    try:
        yield KeyStore(database)
    finally:
        database.close()


def add_key(settings: Settings, label: str | None = None, **fields: Any) -> str:
    """A new key, as its owner has it; its label is its id, unless one is given."""
    credential = Credential.new()
    label = label or credential.key_id
    with keys_of(settings) as store:
        store.add(ApiKey.from_credential(credential, label, created_at=time.time(), **fields))
    return credential.text


def by_key(key: str) -> dict[str, str]:
    """The header that fal's clients send."""
    return {"authorization": f"Key {key}"}
