"""Sessions: who has signed in by a browser."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "sessions",
        sa.Column("value_sha256", sa.String(64), primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("key_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("sessions_by_key", "sessions", ["key_id", "created_at"])
