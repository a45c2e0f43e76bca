"""What the two databases have in common."""

import threading
from typing import Any

import pytest
from job_fixtures import Where

from server.db.database import Database


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
