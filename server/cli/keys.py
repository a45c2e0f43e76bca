"""`cosmos-serve keys`: make, list, limit and revoke the keys of a data folder.

It works on the database itself, with no need of a key or of a running server.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.errors import CommandFailed, WrongUsage
from server.cli.open_database import open_database
from server.cli.options import Data, KeyName, help_of
from server.cli.printing import NOTHING, AsJson, print_columns, print_json, time_text
from server.config.settings import DAY_S
from server.keys import CALLER_SCOPES, ApiKey, Credential, OwnLimits, Scope

if TYPE_CHECKING:
    from server.auth.key_store import KeyStore

DEFAULT = "default"
"""What is typed for a limit that the key shall no longer have of its own."""


def _read_limit(text: str) -> int:
    """The limit that was typed; 0 is `default`."""
    if text == DEFAULT:
        return 0
    if not (text.isdecimal() and 0 < int(text) < 2**31):
        raise typer.BadParameter(f"{text!r} is neither a number from 1 on nor {DEFAULT!r}.")
    return int(text)


def _limit(name: str) -> Any:
    return typer.Option(metavar="N", parser=_read_limit, help=help_of(f"key_{name}"))


QueueLimit = Annotated[int | None, _limit("queue_limit")]
RunningLimit = Annotated[int | None, _limit("running_limit")]
SubmitsPerMinute = Annotated[int | None, _limit("submits_per_minute")]
StorageLimitMib = Annotated[int | None, _limit("storage_limit_mib")]

app = typer.Typer(
    help="Make, list, limit and revoke the keys by which callers prove who they are.\n\n"
    "A running server knows of a change within seconds.",
    epilog="\b\nExample:\n"
    "  cosmos-serve keys create laptop --data data --queue-limit 5\n"
    "  cosmos-serve keys limits laptop --running-limit 1 --queue-limit default\n"
    "  cosmos-serve keys list\n"
    "  cosmos-serve keys revoke laptop",
)


@app.command()
def create(
    label: Annotated[
        str,
        typer.Argument(
            metavar="LABEL",
            help="What you will know it by. No two keys have the same, but for revoked ones.",
        ),
    ],
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
    queue_limit: QueueLimit = None,
    running_limit: RunningLimit = None,
    submits_per_minute: SubmitsPerMinute = None,
    storage_limit_mib: StorageLimitMib = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept. Clients call it FAL_KEY.

    A limit that is not given is the server's for every key, COSMOS_KEY_QUEUE_LIMIT and the like.
    """
    from server.auth.key_store import KeyStore, LabelInUse

    if not label.strip():
        raise WrongUsage("A key needs a label to be known by.")
    credential, now = Credential.new(), time.time()
    key = ApiKey.from_credential(
        credential,
        label,
        created_at=now,
        scopes=scope or CALLER_SCOPES,
        expires_at=None if expires_in_days is None else now + expires_in_days * DAY_S,
        queue_limit=queue_limit or None,
        running_limit=running_limit or None,
        submits_per_minute=submits_per_minute or None,
        storage_limit_mib=storage_limit_mib or None,
    )
    with open_database(data) as database:
        try:
            KeyStore(database).add(key)
        except LabelInUse as error:
            raise CommandFailed(f"{error} Choose another label, or revoke that key.") from error
    print(credential.text)


@app.command()
def limits(
    name: KeyName,
    data: Data,
    queue_limit: QueueLimit = None,
    running_limit: RunningLimit = None,
    submits_per_minute: SubmitsPerMinute = None,
    storage_limit_mib: StorageLimitMib = None,
) -> None:
    """Show a key's limits, or set those that are given; `default` is what every key has.

    A running server keeps to them from the next request on.
    """
    given = {
        "queue_limit": queue_limit,
        "running_limit": running_limit,
        "submits_per_minute": submits_per_minute,
        "storage_limit_mib": storage_limit_mib,
    }
    changes = {name: limit or None for name, limit in given.items() if limit is not None}
    with _keys_in(data) as store:
        key = store.find(name)
        if changes:
            store.set_limits(key.id, changes)
        key = store.find(key.id)
    for field, limit in _limits_of(key).items():
        print(f"{field.replace('_', '-'):19} {DEFAULT if limit is None else limit}")


@app.command("list")
def list_keys(data: Data, as_json: AsJson = False) -> None:
    """List every key that there ever was, without its secret."""
    from server.auth.key_store import KeyStore

    with open_database(data) as database:
        keys = KeyStore(database).all()
    if as_json:
        print_json([_view(key) for key in keys])
    else:
        header = ["ID", "LABEL", "SCOPES", "CREATED", "LAST USED", "LIMITS", "STATE"]
        print_columns(header, [_row(key) for key in keys])


@app.command()
def revoke(name: KeyName, data: Data) -> None:
    """Make a key, and the tokens that it issued, worthless for ever."""
    with _keys_in(data) as store:
        key = store.find(name)
        store.revoke(key.id)
    print(f"The key {key.id} is revoked: running servers refuse it within seconds.")


@contextmanager
def _keys_in(data: Path) -> Iterator["KeyStore"]:
    """The keys of a data folder; `CommandFailed` where one that is named is not among them."""
    from server.auth.key_store import KeyStore, UnknownKey

    with open_database(data) as database:
        try:
            yield KeyStore(database)
        except UnknownKey as error:
            raise CommandFailed(f"{error} `cosmos-serve keys list` shows them.") from error


def _limits_of(key: ApiKey) -> dict[str, int | None]:
    return {field.name: getattr(key, field.name) for field in fields(OwnLimits)}


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
    own = {name: limit for name, limit in _limits_of(key).items() if limit is not None}
    limited = ",".join(f"{name.replace('_', '-')}={limit}" for name, limit in own.items())
    return [key.id, key.name or NOTHING, scopes, *times, limited or NOTHING, _state(key)]


def _view(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "label": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "limits": _limits_of(key),
    }
