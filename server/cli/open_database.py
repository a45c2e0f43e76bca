"""The database of a data folder, as commands open it: also beside the server that owns it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr, TypeAdapter, ValidationError

from server.cli.errors import CommandFailed
from server.config.errors import SettingsError
from server.config.setting_types import DatabaseUrl, FilesUrl
from server.config.settings import Settings
from server.config.settings_file import read_setting

if TYPE_CHECKING:
    from server.db.database import Database
    from server.files.store import FileStore


def database_url() -> SecretStr | None:
    """The setting `database`, for a command that needs no other; None where it is not set.

    Raises:
        SettingsError: it is malformed.
    """
    given = read_setting("database", Settings.model_fields)
    try:
        return TypeAdapter(DatabaseUrl | None).validate_python(given)
    except ValidationError as error:
        raise SettingsError(f"COSMOS_DATABASE=…: {_message_of(error)}.") from error


def files_url() -> str | None:
    """The setting `files`, as `database_url`."""
    given = read_setting("files", Settings.model_fields)
    try:
        return TypeAdapter(FilesUrl | None).validate_python(given)
    except ValidationError as error:
        raise SettingsError(f"COSMOS_FILES={given}: {_message_of(error)}.") from error


def _message_of(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def open_files_of(folder: Path) -> "FileStore":
    """The files that COSMOS_FILES names, or those in the folder."""
    from server.files.opening import open_files

    return open_files(files_url(), folder)


@contextmanager
def open_database(folder: Path) -> Iterator["Database"]:
    """Open the database that COSMOS_DATABASE names, or that a server made in the folder.

    Raises:
        CommandFailed: there is none, or it cannot be used.
        DataFolderDenied: this user may not write it.
    """
    from sqlalchemy.exc import DatabaseError

    from server.data_folder import check_access, database_in
    from server.db.database import Database
    from server.errors import DatabaseDamaged

    url = database_url()
    if url is not None:
        with closing(Database(url)) as database:
            yield database
        return
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
    except DatabaseDamaged as error:
        raise CommandFailed(f"{path} cannot be used. {error}") from error
    except DatabaseError as error:
        raise CommandFailed(f"{path} cannot be used: {error.orig}.") from error


def key_id_of(database: "Database", name: str | None) -> str | None:
    """The id of the key of that label or id; None if none is named.

    Raises:
        CommandFailed: there is no such key.
    """
    from server.auth.key_store import KeyStore, UnknownKey

    if name is None:
        return None
    try:
        return KeyStore(database).id_of(name)
    except UnknownKey as error:
        raise CommandFailed(f"{error} `cosmos-serve keys list` shows them.") from error


def labels_of(database: "Database") -> dict[str, str]:
    """The labels of all keys, by their ids."""
    from server.auth.key_store import KeyStore

    return {key.id: key.name for key in KeyStore(database).all()}
