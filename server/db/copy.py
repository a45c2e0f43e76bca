"""Every row of a server's SQLite file, in a database of PostgreSQL that has none yet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection, Table, cast, func, insert, select, text
from sqlalchemy.dialects.postgresql import REGCLASS

from server.data_folder import DataFolderError, database_in
from server.db import tables
from server.db.database import Database

BATCH = 500
"""Rows that are sent at a time."""


class CopyRefused(DataFolderError):
    """The databases are not such that one can be copied to the other; the message says why."""


def copy_to_postgres(data: Path, url: SecretStr) -> dict[str, int]:
    """Copy every table, all of it or nothing. The caller owns the data folder.

    Both databases are brought to this release first.

    Returns:
        How many rows each table has, in both.

    Raises:
        CopyRefused: there is no database in `data`, or that of `url` has rows already.
        Shortage: PostgreSQL is away, or does not let us in.
    """
    path = database_in(data)
    if not path.is_file():
        raise CopyRefused(f"There is no database in {data}: name a server's data folder.")
    source, target = Database(path), Database(url)
    try:
        with source.read() as original, target.write() as copy:
            target.take_turn(copy, "schema")
            for table in tables.metadata.sorted_tables:
                if _count(copy, table):
                    raise CopyRefused(
                        f"The database of COSMOS_DATABASE has rows in {table.name} already: "
                        "a copy needs one that is empty."
                    )
            # Each takes its time, and nobody else waits.
            copy.execute(text("SET LOCAL statement_timeout = 0"))
            for table in tables.metadata.sorted_tables:
                for rows in _batches(original, table):
                    copy.execute(insert(table), rows)
                _go_on_counting(original, copy, table)
            return {
                table.name: _checked(original, copy, table)
                for table in tables.metadata.sorted_tables
            }
    finally:
        source.close()
        target.close()


def _batches(db: Connection, table: Table) -> Iterator[list[dict[str, object]]]:
    rows = db.execute(select(table)).mappings()
    while batch := rows.fetchmany(BATCH):
        yield [{name: _storable(value) for name, value in row.items()} for row in batch]


def _storable(value: Any) -> Any:
    """The value without the character 0, which releases before this one took in texts."""
    match value:
        case str():
            return tables.without_null(value)
        case dict():
            return {_storable(name): _storable(each) for name, each in value.items()}
        case list():
            return [_storable(each) for each in value]
    return value


def _go_on_counting(original: Connection, copy: Connection, table: Table) -> None:
    """Let the next row have the number that it would have had: none is given twice."""
    column = table.autoincrement_column
    if column is None:
        return
    last = copy.execute(select(func.max(column))).scalar_one() or 0
    if table.dialect_options["sqlite"]["autoincrement"]:
        # SQLite remembers the numbers of rows that are gone.
        counted = text("SELECT max(seq) FROM sqlite_sequence WHERE name = :table")
        last = max(last, original.execute(counted, {"table": table.name}).scalar_one() or 0)
    sequence = cast(func.pg_get_serial_sequence(table.name, column.name), REGCLASS)
    copy.execute(select(func.setval(sequence, last + 1, False)))


def _checked(original: Connection, copy: Connection, table: Table) -> int:
    had, has = _count(original, table), _count(copy, table)
    if had != has:
        raise CopyRefused(f"{table.name} has {had:,} rows, and {has:,} came to PostgreSQL.")
    return has


def _count(db: Connection, table: Table) -> int:
    return db.execute(select(func.count()).select_from(table)).scalar_one()
