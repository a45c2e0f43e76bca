"""`cosmos-serve keys`: make, list and revoke the keys of a data folder."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.auth.key_store import KeyStore, UnknownKey
from server.cli.database import open_database
from server.cli.errors import CommandFailed
from server.cli.printing import NOTHING, columns, json_text, time_text
from server.keys import CALLER_SCOPES, ApiKey, Credential, Scope
from server.settings import DAY_S


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that somebody asks for."""

    label: str
    scopes: Collection[Scope] = ()
    expires_in_days: int | None = None


def create_key(data: Path, wish: NewKey) -> str:
    """Make a key; what its owner gets, which is shown here and never again."""
    credential, now = Credential.new(), time.time()
    lifetime = wish.expires_in_days
    key = ApiKey.from_credential(
        credential,
        wish.label,
        created_at=now,
        scopes=wish.scopes or CALLER_SCOPES,
        expires_at=None if lifetime is None else now + lifetime * DAY_S,
    )
    with open_database(data) as database:
        KeyStore(database).add(key)
    return credential.text


def list_keys(data: Path, *, as_json: bool) -> str:
    """Every key that there ever was; secrets are not kept, so none is shown."""
    with open_database(data) as database:
        keys = KeyStore(database).all()
    if as_json:
        return json_text([_view(key) for key in keys])
    header = ["ID", "LABEL", "SCOPES", "CREATED", "LAST USED", "STATE"]
    return columns(header, [_row(key) for key in keys])


def revoke_key(data: Path, key_id: str) -> str:
    """Make a key worthless.

    Raises:
        CommandFailed: there is none of that id.
    """
    # People paste the whole key, of which the id is the part before the colon.
    key_id = key_id.partition(":")[0]
    with open_database(data) as database:
        try:
            KeyStore(database).revoke(key_id)
        except UnknownKey as error:
            raise CommandFailed(f"{error} `cosmos-serve keys list` shows them.") from error
    return f"The key {key_id} is revoked: running servers refuse it within seconds."


def _state(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return f"revoked {time_text(key.revoked_at)}"
    if key.expires_at is None:
        return "good"
    verb = "expired" if key.expires_at <= time.time() else "good until"
    return f"{verb} {time_text(key.expires_at)}"


def _row(key: ApiKey) -> list[str]:
    scopes = ",".join(sorted(key.scopes))
    times = [time_text(key.created_at), time_text(key.last_used_at)]
    return [key.id, key.name or NOTHING, scopes, *times, _state(key)]


def _view(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "label": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }
