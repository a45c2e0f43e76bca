"""What is said of a PostgreSQL that nobody answers for."""

import socket

import pytest
from pydantic import SecretStr

from server.db.postgres import check_postgres
from server.errors import Shortage


def test_why_it_cannot_be_reached_is_one_line() -> None:
    """libpq says it in two, and the second one asks a question."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = SecretStr(f"postgresql+psycopg://cosmos:a-secret@127.0.0.1:{port}/cosmos")

    with pytest.raises(Shortage) as refused:
        check_postgres(url)

    said = str(refused.value)
    assert said.startswith("The database of COSMOS_DATABASE cannot be used: connection failed: ")
    assert str(port) in said and "\n" not in said and "?" not in said
    assert said.endswith("connections. Try again later.")
    assert "a-secret" not in said
