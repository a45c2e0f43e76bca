"""The tables, and how their database is opened.

Media never enters a table: rows name artefacts, which are files.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    TypeDecorator,
    UniqueConstraint,
    create_engine,
    event,
    types,
)
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.pool import ConnectionPoolEntry

from server.errors import RequestError

BUSY_TIMEOUT_MS = 5000
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
"""SQLite's primary codes of a file that is damaged."""

BEGIN_OPTION = "cosmos_begin"
"""The execution option that says how a transaction begins on SQLite."""

metadata = MetaData()

_Number = BigInteger().with_variant(Integer, "sqlite")
"""What rows are numbered with, without an end that could be reached: SQLite's INTEGER has none."""


def without_null(text: str) -> str:
    """The text with what stands for a character that cannot be kept in place of each 0."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


class NullCharacter(DontWrapMixin, RequestError):
    """A text that somebody sent has the character 0, which PostgreSQL cannot keep or look for."""

    status = 422
    error_type = "bad_request"
    message = "A text of this request has the character U+0000: leave it out."


class _Checked(TypeDecorator[str]):
    """A text without the character 0, also on SQLite, so that both refuse the same."""

    impl = types.String

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        if value is not None and "\0" in value:
            raise NullCharacter
        return value


class Text(_Checked):
    """A text of any length."""

    impl = types.Text
    cache_ok = True


class String(_Checked):
    """A text of so many characters at most."""

    cache_ok = True


class _Line(TypeDecorator[str]):
    """A text of anybody's, who is not there to be told: the character 0 is replaced."""

    impl = types.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Any) -> str | None:
        return None if value is None else without_null(value)


jobs = Table(
    "jobs",
    metadata,
    Column("seq", _Number, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("endpoint", Text, nullable=False),
    Column("key_id", Text),
    Column("base_url", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("priority", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("worker_deaths", Integer, nullable=False, default=0),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    Column("input", JSON, nullable=False),
    Column("input_refs", JSON(none_as_null=True)),
    Column("tier", Text),
    Column("slot", Text),
    Column("claimed_by", Text),
    Column("lease_until", Float),
    Column("not_before", Float),
    Column("store_io", Boolean, nullable=False, default=True),
    Column("expires_at", Float),
    Column("submitted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("result", JSON(none_as_null=True)),
    Column("error", JSON(none_as_null=True)),
    Column("http_status", Integer),
    Column("webhook_url", Text),
    Column("idempotency_key", Text),
    Column("body_sha256", String(64)),
    Column("start_by", Float),
    Column("no_retry", Boolean, nullable=False, default=False),
    Column("file_lifetime_s", Float),
    Column("is_run", Boolean, nullable=False, default=False),
    Column("traceparent", String(55)),
    UniqueConstraint("key_id", "idempotency_key"),
    Index("jobs_by_place", "status", "priority", "seq"),
    Index("jobs_by_end", "finished_at"),
    Index("jobs_by_expiry", "expires_at"),
    Index("jobs_by_key", "key_id", "status"),
    Index("jobs_by_submit", "key_id", "submitted_at"),
    Index("jobs_by_order", "key_id", "seq"),
    Index("jobs_by_key_and_end", "key_id", "finished_at"),
    # A job's place in the queue is never given to another job, not even after its row is gone.
    sqlite_autoincrement=True,
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("key_id", Text),
    Column("kind", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("frames", Integer),
    Column("fps", Float),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Index("artifacts_by_job", "job_id"),
    Index("artifacts_by_kind", "kind", "created_at"),
    Index("artifacts_by_expiry", "kind", "expires_at"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", Text),
    # What the file will be called: its row comes when it is there.
    Column("file_id", String(128), nullable=False),
    Column("file_name", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("max_size", BigInteger, nullable=False),
    Column("in_parts", Boolean, nullable=False),
    Column("lifetime_s", Float),
    Column("expires_at", Float, nullable=False),
    Column("closed_at", Float),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("upload_id", String(64), ForeignKey("uploads.id", ondelete="CASCADE")),
    Column("number", Integer, nullable=False),
    Column("file_id", String(128), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    PrimaryKeyConstraint("upload_id", "number"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("last_used_at", Float),
    # What the key may have, where that is not what every key may have.
    Column("queue_limit", Integer),
    Column("running_limit", Integer),
    Column("submits_per_minute", Integer),
    Column("storage_limit_mib", Integer),
)

# Who has signed in by a browser.
sessions = Table(
    "sessions",
    metadata,
    Column("value_sha256", String(64), primary_key=True),
    # A key that the settings name has no row, so this is no foreign key.
    Column("key_id", Text, nullable=False),
    Column("key_sha256", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("sessions_by_key", "key_id", "created_at"),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("url", Text, nullable=False),
    # The host and port of the URL.
    Column("receiver", Text, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    # When the next try is due; NULL once there is none to come.
    Column("not_before", Float, index=True),
    Column("claimed_by", Text),
    Column("lease_until", Float),
    Column("delivered_at", Float),
    Column("given_up_at", Float),
    Column("last_error", _Line),
    UniqueConstraint("job_id"),
)

logs = Table(
    "logs",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", _Line, nullable=False),
    Index("logs_by_job", "job_id", "id"),
)

progress = Table(
    "progress",
    metadata,
    Column("job_id", String(36), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("stage", String(16), nullable=False),
    Column("step", Integer),
    Column("num_steps", Integer),
)


# When a server on this data folder last removed what was over, by the time it counted, and for how
# long servers have run since then that doubted their clock.
heartbeat = Table(
    "heartbeat",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("doubted_s", Float, nullable=False, server_default="0"),
)


# What was used: a row for each job that ended, written with its end and never removed. It has
# nothing of the request, and not its id.
usage = Table(
    "usage",
    metadata,
    Column("id", _Number, primary_key=True),
    Column("ended_at", Float, nullable=False),
    Column("key_id", Text),
    Column("endpoint", Text, nullable=False),
    Column("http_status", Integer, nullable=False),
    # fal's name of a failure; NULL for a video, and where the input was at fault.
    Column("error_type", Text),
    # Seconds from the submit to the last run, and of that run; NULL if it never ran.
    Column("waited_s", Float),
    Column("run_s", Float),
    # Seconds of the run times the devices that worked on it.
    Column("gpu_s", Float, nullable=False),
    Column("stage_seconds", JSON, nullable=False),
    Index("usage_by_end", "ended_at"),
    Index("usage_by_key", "key_id", "ended_at"),
)


# What operators have switched on; a row that is not there is off.
switches = Table(
    "switches",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("set_at", Float, nullable=False),
)


# What the servers of one database share, where it is PostgreSQL: with SQLite they are files of the
# data folder.
secrets = Table(
    "secrets",
    metadata,
    Column("name", String(64), primary_key=True),
    # In base64.
    Column("value", Text, nullable=False),
)


def open_database(path: Path) -> Engine:
    """Open the SQLite file at `path`, made if missing; `server.db.upgrade` makes its tables.

    WAL lets readers go on while one writes; synchronous FULL makes a commit survive a loss of
    power. Transactions begin DEFERRED unless the connection's options say IMMEDIATE.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Parameters hold prompts: errors, which go to the log, must not repeat them.
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def closed_on_error(engine: Engine) -> Iterator[None]:
    """Close what was opened for somebody who then cannot have it."""
    try:
        yield
    except BaseException:
        close(engine)
        raise


def close(engine: Engine) -> None:
    """Close the connections: at once those that are idle, the others as they are given back."""

    def close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:
        record.invalidate()

    event.listen(engine, "checkin", close_returned)
    engine.dispose()


def _set_pragmas(connection: sqlite3.Connection, _record: Any) -> None:
    # The driver must not begin transactions by its own rules: `_begin` does.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin(connection: Connection) -> None:
    mode = connection.get_execution_options().get(BEGIN_OPTION, "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
