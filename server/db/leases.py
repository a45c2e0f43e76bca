"""Leases of rows: who has one in hand, and until when by the database's clock.

An owner that dies holds nothing for longer than its lease. On SQLite the columns are written, too,
where the lock of the data folder admits one server.
"""

from typing import Any

from sqlalchemy import ColumnElement, Float, Table, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

LEASE_S = 30.0
"""How long a job is left to its owner that says nothing more."""

FREE: dict[str, Any] = {"claimed_by": None, "lease_until": None}
"""The columns of a row that nobody has in hand."""


class database_time(FunctionElement[float]):  # noqa: N801 - it is written as a function of SQL is
    """The database's own time in Unix seconds, as it is when the statement runs."""

    type = Float()
    inherit_cache = True


@compiles(database_time, "sqlite")
def _of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_time, "postgresql")
def _of_postgres(*_: Any, **__: Any) -> str:
    # Not `now()`, which is when the transaction began.
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


def lease_of(owner: str, seconds: float = LEASE_S) -> dict[str, Any]:
    """The columns of a row that this owner takes, or goes on having, for so long from now on."""
    return {"claimed_by": owner, "lease_until": database_time() + seconds}


def is_free(table: Table) -> ColumnElement[bool]:
    """Nobody has the row in hand, or its lease has lapsed."""
    return or_(table.c.lease_until.is_(None), table.c.lease_until <= database_time())
