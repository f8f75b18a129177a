"""What alembic runs to take steps: on the connection that it was handed, in its transaction."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
