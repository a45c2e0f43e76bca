"""A job belongs to a trace."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the trace, which the jobs that are here do not have."""
    op.add_column("jobs", sa.Column("traceparent", sa.String(55)))
