"""What the two databases have in common."""

import threading
from contextlib import closing
from typing import Any

import pytest
from job_fixtures import Where
from sqlalchemy import insert, select

from server.db import tables
from server.db.database import Database
from server.db.tables import NullCharacter


def test_a_connection_that_is_in_use_is_closed_as_it_is_given_back(where: Where) -> None:
    """A thread that reads is not waited for as the server ends."""
    database, reading, closed = Database(where), threading.Event(), threading.Event()
    connections: list[Any] = []

    def read() -> None:
        with database.read() as connection:
            connections.append(connection.connection.dbapi_connection)
            reading.set()
            closed.wait()

    reader = threading.Thread(target=read)
    reader.start()
    reading.wait()
    database.close()
    closed.set()
    reader.join()

    with pytest.raises(Exception, match="closed"):
        connections[0].execute("SELECT 1")


def test_the_character_0_is_refused_where_it_would_be_kept_or_looked_for(where: Where) -> None:
    """PostgreSQL's own refusal would be an error of the server's."""
    database = Database(where)
    with closing(database):
        with pytest.raises(NullCharacter, match="leave it out"), database.write() as db:
            switch = insert(tables.switches)
            db.execute(switch.values(name="a\0b", set_at=1.0))
        for wanted in (tables.jobs.c.id == "a\0b", tables.jobs.c.id.in_(["a", "a\0b"])):
            with pytest.raises(NullCharacter), database.read() as db:
                db.execute(select(tables.jobs.c.seq).where(wanted))
