"""How long the clock has been doubted outlives a restart."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the time, which is none so far."""
    column = sa.Column("doubted_s", sa.Float, nullable=False, server_default="0")
    op.add_column("heartbeat", column)
