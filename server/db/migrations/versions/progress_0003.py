"""The progress of a run keeps only what is shown of it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Drop the columns that nothing reads."""
    for column in ("attempt", "seconds_left", "updated_at"):
        op.drop_column("progress", column)
