"""The database of a data folder, as commands open it: also beside the server that owns it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from server.cli.errors import CommandFailed

if TYPE_CHECKING:
    from server.db.database import Database


@contextmanager
def open_database(folder: Path) -> Iterator["Database"]:
    """Open the database that a server made in the folder.

    Raises:
        CommandFailed: there is none, or it cannot be used.
        DataFolderDenied: this user may not write it.
    """
    from sqlalchemy.exc import DatabaseError

    from server.data_folder import check_access, database_in
    from server.db.database import Database

    path = database_in(folder)
    check_access(folder)
    if not path.is_file():
        raise CommandFailed(
            f"There is no database in {folder}: name a server's data folder with --data. "
            "The first start of the server makes it."
        )
    try:
        database = Database(path)
        try:
            yield database
        finally:
            database.close()
    except DatabaseError as error:
        raise CommandFailed(f"{path} cannot be used: {error.orig}.") from error
