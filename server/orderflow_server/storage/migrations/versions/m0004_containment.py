"""Set aside refused events, record why orders are parked, and date waiting orders by the database.

Every column has a default: a server of the release before continues to write beside this one.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

TIME = sa.Integer().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
"""SQLite: microseconds since 1970."""


def upgrade() -> None:
    # When the order entered its present state, by the database's clock. Null: a server of the
    # release before wrote the row; then update_time is used.
    op.add_column("orders", sa.Column("awaiting_since", TIME))
    op.add_column(
        "orders", sa.Column("parked_reason", sa.Text(), nullable=False, server_default="")
    )
    # Orders whose settlement failed repeatedly. Few, so the index costs new orders nothing.
    repeated = sa.text("lease_until IS NOT NULL AND lease_attempts >= 3")
    op.create_index(
        "orders_repeated_by_lease",
        "orders",
        ["lease_until", "id"],
        sqlite_where=repeated,
        postgresql_where=repeated,
    )
    # When the stream refused the event, and why. Null: it did not.
    op.add_column("events", sa.Column("refused_time", TIME))
    op.add_column(
        "events", sa.Column("refused_reason", sa.Text(), nullable=False, server_default="")
    )
    refused = sa.text("refused_time IS NOT NULL AND NOT published")
    op.create_index(
        "events_refused",
        "events",
        ["order_id", "version"],
        sqlite_where=refused,
        postgresql_where=refused,
    )
