"""Bring a database to the tables of this release: made, or upgraded step by step.

Alembic is imported only where there is a step to take, so that a usual start does not pay for it.
"""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, String, Table, insert, inspect, select

from server.db import tables

FIRST = "0001"
LATEST = "0011"
"""The last step in `server/db/migrations/versions`."""

_STEPS = Path(__file__).parent / "migrations"
_VERSION = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False, primary_key=True),
)
"""As Alembic makes it."""


class UnknownSchema(Exception):
    """The database is of a release that this one does not know; the message says so."""


def _alone(_: Connection) -> None:
    """The transaction is one that no other writer overlaps."""


def check_release(db: Connection) -> None:
    """See that the tables, if there are any, are not those of a later release.

    Raises:
        UnknownSchema: they are.
    """
    revision = _revision(db)
    if revision is not None and revision > LATEST:
        raise UnknownSchema(
            f"The database {db.engine.url.database} is of a later release of cosmos-serve: its "
            f"tables are of step {revision}, and this release knows those up to {LATEST}."
        )


def prepare(engine: Engine, take_turn: Callable[[Connection], None] = _alone) -> None:
    """Make the tables, or bring them up to date: all of it, or nothing.

    `take_turn` lets no other process do it at the same time.

    Raises:
        UnknownSchema: the database is of a later release.
    """
    with engine.begin() as db:
        if _revision(db) == LATEST:
            return
    with engine.execution_options(**{tables.BEGIN_OPTION: "IMMEDIATE"}).begin() as db:
        take_turn(db)
        check_release(db)
        # Read again: another process may have been quicker.
        revision = _revision(db)
        if revision is None:
            tables.metadata.create_all(db)
            _write_revision(db, LATEST)
        elif revision < LATEST:
            _upgrade(db)


def _revision(db: Connection) -> str | None:
    """Which tables the database has; None if it has none yet."""
    names = inspect(db).get_table_names()
    if _VERSION.name in names:
        return str(db.execute(select(_VERSION.c.version_num)).scalar_one())
    return FIRST if tables.jobs.name in names else None


def _write_revision(db: Connection, revision: str) -> None:
    _VERSION.create(db)
    db.execute(insert(_VERSION).values(version_num=revision))


def _upgrade(db: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    if _VERSION.name not in inspect(db).get_table_names():
        _write_revision(db, FIRST)
    config = Config()
    config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, LATEST)
