"""What was used has a table of its own, which begins with the jobs that are still here."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_FROM_JOBS = """
INSERT INTO usage
    (ended_at, key_id, endpoint, http_status, error_type, waited_s, run_s, gpu_s, stage_seconds)
SELECT
    finished_at,
    key_id,
    endpoint,
    coalesce(http_status, 200),
    coalesce(
        json_extract(error, '$.error_type'),
        CASE WHEN http_status >= 500 THEN json_extract(error, '$.detail[0].type') END
    ),
    max(started_at - submitted_at, 0.0),
    max(finished_at - started_at, 0.0),
    coalesce(
        max(finished_at - started_at, 0.0)
            * (length(slot) - length(replace(slot, '+', '')) + 1),
        0.0
    ),
    coalesce(json_extract(result, '$.stage_seconds'), '{}')
FROM jobs WHERE finished_at IS NOT NULL ORDER BY finished_at
"""


def upgrade() -> None:
    """Add the table with its rows, and an index by which a key's own requests are listed."""
    op.create_table(
        "usage",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("ended_at", sa.Float, nullable=False),
        sa.Column("key_id", sa.Text),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("http_status", sa.Integer, nullable=False),
        sa.Column("error_type", sa.Text),
        sa.Column("waited_s", sa.Float),
        sa.Column("run_s", sa.Float),
        sa.Column("gpu_s", sa.Float, nullable=False),
        sa.Column("stage_seconds", sa.JSON, nullable=False),
    )
    op.create_index("usage_by_end", "usage", ["ended_at"])
    op.create_index("usage_by_key", "usage", ["key_id", "ended_at"])
    op.create_index("jobs_by_key_and_end", "jobs", ["key_id", "finished_at"])
    op.execute(_FROM_JOBS)
