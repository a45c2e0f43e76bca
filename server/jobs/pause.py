"""Whether the queue is paused: jobs are accepted, and those that run go on, but none is started.

The switch is in the database, so it outlives the server, and every process sees it at once.
"""

import time

from sqlalchemy import ColumnElement, delete, exists, insert, select

from server.db import tables
from server.db.database import Database

_switches = tables.switches.c
_PAUSED = _switches.name == "queue_paused"


def is_paused() -> ColumnElement[bool]:
    """The queue is paused, as a condition within a statement that claims a job."""
    return exists().where(_PAUSED)


def paused_since(database: Database) -> float | None:
    """When the queue was paused; None if it is not."""
    with database.read() as db:
        return db.execute(select(_switches.set_at).where(_PAUSED)).scalar_one_or_none()


def pause(database: Database) -> None:
    """Start no more jobs from now on."""
    with database.write() as db:
        database.take_turn(db, "switches")
        if db.execute(select(_switches.name).where(_PAUSED)).first() is None:
            row = {"name": "queue_paused", "set_at": time.time()}
            db.execute(insert(tables.switches).values(row))


def resume(database: Database) -> None:
    """Start jobs again."""
    with database.write() as db:
        db.execute(delete(tables.switches).where(_PAUSED))
