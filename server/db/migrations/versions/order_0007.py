"""An index, so that a page of a key's jobs takes no longer for all the others."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the index."""
    op.create_index("jobs_by_order", "jobs", ["key_id", "seq"])
