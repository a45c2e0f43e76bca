"""What Alembic runs to take its steps: on a connection, and within a transaction, that it is given.

`server.db.upgrade` is its one caller.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
