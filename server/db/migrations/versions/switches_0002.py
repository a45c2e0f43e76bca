"""Operators can pause the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table of switches."""
    op.create_table(
        "switches",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("set_at", sa.Float, nullable=False),
    )
