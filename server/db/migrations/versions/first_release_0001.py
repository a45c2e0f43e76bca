"""The tables of the first release. It wrote no revision into its databases: they are at this one.

A new database is made from `server.db.tables` at once, so there is nothing to do here.
"""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """There was nothing before."""
