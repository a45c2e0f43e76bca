"""Indexes, so that no statement takes longer for jobs that are done; and the server's heartbeat."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INDEXES = (
    ("jobs_by_expiry", "jobs", ["expires_at"]),
    ("jobs_by_key", "jobs", ["key_id", "status"]),
    ("jobs_by_submit", "jobs", ["key_id", "submitted_at"]),
    ("artifacts_by_kind", "artifacts", ["kind", "created_at"]),
    ("artifacts_by_expiry", "artifacts", ["kind", "expires_at"]),
)


def upgrade() -> None:
    """Add the indexes and the table."""
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns)
    op.create_table(
        "heartbeat",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
    )
