"""What is said of a PostgreSQL that nobody answers for."""

import socket
from typing import Any

import pytest
import sqlalchemy.exc
from pydantic import SecretStr
from sqlalchemy import event

from server.db.postgres import check_postgres, open_postgres
from server.disk import shortage_of
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


@pytest.mark.cluster
def test_time_limits_are_set_without_options_which_a_pooler_refuses(
    postgres_database: SecretStr,
) -> None:
    engine, sent = open_postgres(postgres_database), list[dict[str, Any]]()
    event.listen(engine, "do_connect", lambda *given: sent.append(given[-1]))
    with engine.connect() as db:
        db.rollback()
        limits = [
            db.exec_driver_sql(f"SHOW {name}").scalar_one()
            for name in ("statement_timeout", "idle_in_transaction_session_timeout")
        ]
    engine.dispose()
    assert limits == ["30s", "15s"]
    assert [arguments.get("options") for arguments in sent] == [None]


@pytest.mark.cluster
def test_options_of_the_url_are_kept(postgres_database: SecretStr) -> None:
    own = "?options=-c%20statement_timeout%3D7s%20-c%20work_mem%3D9MB"
    engine = open_postgres(SecretStr(postgres_database.get_secret_value() + own))
    with engine.connect() as db:
        names = ("statement_timeout", "work_mem", "idle_in_transaction_session_timeout")
        found = [db.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
    engine.dispose()
    assert found == ["7s", "9MB", "15s"]


def test_when_all_connections_are_in_use_no_other_program_is_blamed() -> None:
    shortage = shortage_of(sqlalchemy.exc.TimeoutError("QueuePool limit of size 16 reached"))
    assert str(shortage) == (
        "All of the server's connections to its database are in use. Try again later."
    )
