"""The trace that an order was placed in."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # The default is for rows of before, and for a server of before that still runs.
    op.add_column("orders", sa.Column("traceparent", sa.Text(), nullable=False, server_default=""))
