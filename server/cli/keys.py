"""`cosmos-serve keys`: make, list and revoke the keys of a data folder.

It works on the database itself, with no need of a key or of a running server.
"""

import time
from typing import Annotated, Any

import typer

from server.cli.database import open_database
from server.cli.errors import CommandFailed
from server.cli.options import Data
from server.cli.printing import NOTHING, AsJson, print_columns, print_json, time_text
from server.keys import CALLER_SCOPES, ApiKey, Credential, Scope
from server.settings import DAY_S

app = typer.Typer(
    help="Make, list and revoke the keys by which callers prove who they are.\n\n"
    "A running server knows of a change within seconds.",
    epilog="\b\nExample:\n"
    "  cosmos-serve keys create laptop --data data\n"
    "  cosmos-serve keys list\n"
    "  cosmos-serve keys revoke 3f9c2a7b81d04e65",
)


@app.command()
def create(
    label: Annotated[str, typer.Argument(metavar="LABEL", help="What you will know it by.")],
    data: Data,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What the key is for; may be given several times. By default run and files, "
            "which is what a client needs. admin is for operators.",
        ),
    ] = None,
    expires_in_days: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="End the key by itself; by default it stays."),
    ] = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept. Clients call it FAL_KEY."""
    from server.auth.key_store import KeyStore

    credential, now = Credential.new(), time.time()
    key = ApiKey.from_credential(
        credential,
        label,
        created_at=now,
        scopes=scope or CALLER_SCOPES,
        expires_at=None if expires_in_days is None else now + expires_in_days * DAY_S,
    )
    with open_database(data) as database:
        KeyStore(database).add(key)
    print(credential.text)


@app.command("list")
def list_keys(data: Data, as_json: AsJson = False) -> None:
    """List every key that there ever was, without its secret."""
    from server.auth.key_store import KeyStore

    with open_database(data) as database:
        keys = KeyStore(database).all()
    if as_json:
        print_json([_view(key) for key in keys])
    else:
        header = ["ID", "LABEL", "SCOPES", "CREATED", "LAST USED", "STATE"]
        print_columns(header, [_row(key) for key in keys])


@app.command()
def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The part of the key before the colon.")
    ],
    data: Data,
) -> None:
    """Make a key, and the tokens that it issued, worthless for ever."""
    from server.auth.key_store import KeyStore, UnknownKey

    # People paste the whole key.
    key_id = key_id.partition(":")[0]
    with open_database(data) as database:
        try:
            KeyStore(database).revoke(key_id)
        except UnknownKey as error:
            raise CommandFailed(f"{error} `cosmos-serve keys list` shows them.") from error
    print(f"The key {key_id} is revoked: running servers refuse it within seconds.")


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
