"""A key can have limits of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the limits, which no key has so far."""
    for column in ("queue_limit", "running_limit", "submits_per_minute", "storage_limit_mib"):
        op.add_column("keys", sa.Column(column, sa.Integer))
