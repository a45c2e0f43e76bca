"""The secrets of a server: files of its data folder, or rows where servers share a database.

The holder of the one or the other has them.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import insert, select

from server.config.errors import SettingsError
from server.data_folder import read_or_make
from server.db import tables
from server.db.database import Database

_secrets = tables.secrets.c


def read_or_make_secret(
    database: Database, path: Path, make: Callable[[], bytes], *, at_least: int = 1
) -> bytes:
    """The secret that the file has, or that the database has under the file's name.

    If there is none, it is made. Where servers share the database, the first of them puts its
    file's there, if it has one.

    Raises:
        UnusableSecret: the file holds fewer bytes than `at_least`.
        SettingsError: the file is there, and the database has another.
    """
    if not database.is_shared:
        return read_or_make(path, make, at_least=at_least)
    in_folder = read_or_make(path, make, at_least=at_least) if path.exists() else None
    with database.write() as db:
        database.take_turn(db, "secrets")
        query = select(_secrets.value).where(_secrets.name == path.name)
        text = db.execute(query).scalar_one_or_none()
        kept = (in_folder or make()) if text is None else b64decode(text)
        if text is None:
            row = {"name": path.name, "value": b64encode(kept).decode()}
            db.execute(insert(tables.secrets).values(row))
    if in_folder not in (None, kept):
        raise SettingsError(
            f"{path} is another secret than the one that the servers of this database share: move "
            "it away, or name another folder with --data"
        )
    return kept
