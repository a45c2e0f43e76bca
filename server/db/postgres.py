"""The database of a PostgreSQL server, which several processes on several machines share.

psycopg is imported only where it is used: it is an extra.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic import SecretStr
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.exc import OperationalError

from server.db import tables
from server.db.upgrade import check_release, prepare
from server.errors import Shortage

STATEMENT_TIMEOUT_S = 30
IDLE_IN_TRANSACTION_S = 15
"""A process that is stopped within a transaction holds its locks for no longer."""

_LIMITS_S = {
    "statement_timeout": STATEMENT_TIMEOUT_S,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_S,
}

CONNECTIONS = 16
"""Of one process: eight threads write, and others read meanwhile."""

CHANNEL = "cosmos_serve"
"""Of NOTIFY. It is of one database, as locks are."""

CONNECT_ARGS: dict[str, Any] = {
    "connect_timeout": 5,
    # A machine that is gone without a word is noticed within a quarter of a minute.
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
    "application_name": "cosmos-serve",
    # One that is prepared fails once an upgrade has changed its table.
    "prepare_threshold": None,
}

LOCK_CLASS = 0x636F736D
"""The first number of our advisory locks, the letters `cosm`; the second is a hash of a name."""


class Postgres:
    """What `server.db.database` opens for a URL.

    Writers overlap: a transaction that decides by a row reads it FOR UPDATE, and one that decides
    by several takes a turn. Every statement sees what was committed before it began.
    """

    is_shared = True
    is_damaged = False

    def __init__(self, url: SecretStr) -> None:
        self._engine = open_postgres(url)
        self._reading = self._engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        with tables.closed_on_error(self._engine), _shortage_if_away():
            prepare(self._engine, self._begin_upgrade)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One transaction that sees the tables as they are at its first statement."""
        with self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._engine.begin() as connection:
            yield connection

    def take_turn(self, db: Connection, what: str) -> None:
        """Wait for the transactions that have the same turn, and keep it to the end of this one."""
        db.execute(select(func.pg_advisory_xact_lock(*advisory_lock(what))))

    def notify(self, message: str) -> None:
        """Tell the servers that listen, with no promise that it arrives."""
        with self.write() as db:
            db.execute(select(func.pg_notify(CHANNEL, message)))

    def check(self) -> None:
        """PostgreSQL looks after its own files."""

    def close(self) -> None:
        tables.close(self._engine)

    def _begin_upgrade(self, db: Connection) -> None:
        db.execute(text("SET LOCAL statement_timeout = 0"))
        self.take_turn(db, "schema")


def check_postgres(url: SecretStr) -> None:
    """See that a server could use the database; nothing is written.

    Raises:
        Shortage: it is away, or does not let us in.
        UnknownSchema: it is of a later release.
        ModuleNotFoundError: psycopg is not installed.
    """
    engine = open_postgres(url)
    try:
        with _shortage_if_away(), engine.begin() as db:
            check_release(db)
    finally:
        engine.dispose()


@contextmanager
def _shortage_if_away() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        # libpq's text may have several lines, and a mark at the end.
        reason = " ".join(str(error.orig).split()).rstrip(".?")
        raise Shortage(f"The database of COSMOS_DATABASE cannot be used: {reason}.") from error


def advisory_lock(what: str) -> tuple[int, ColumnElement[int]]:
    """The arguments of PostgreSQL's functions for a lock that no row has."""
    return LOCK_CLASS, func.hashtext(what)


def open_postgres(url: SecretStr) -> Engine:
    """An engine whose connections are tried before each use, and whose statements end in time."""
    address = make_url(url.get_secret_value())
    engine = create_engine(
        address,
        # Parameters hold prompts: errors, which go to the log, must not repeat them.
        hide_parameters=True,
        pool_pre_ping=True,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=5,
        connect_args=CONNECT_ARGS,
    )
    event.listen(engine, "connect", partial(_set_limits, str(address.query.get("options", ""))))
    return engine


def _set_limits(given: str, connection: Any, _record: Any) -> None:
    """Set the limits of a session, but those that the URL's own options set.

    They are not options of the connection, which PgBouncer refuses or leaves out.
    """
    statements = [
        f"SET {name} = '{seconds}s'" for name, seconds in _LIMITS_S.items() if name not in given
    ]
    # Within a transaction they would end with it, if it is rolled back.
    connection.autocommit = True
    for statement in statements:
        connection.execute(statement)
    connection.autocommit = False
