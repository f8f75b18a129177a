"""Orders, their items, and an event for each of their versions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

ID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
TIME = sa.Integer().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
"""SQLite: microseconds since 1970."""
INT64 = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
"""SQLite's integers have 64 bits whatever they are called."""


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("id", ID, primary_key=True),
        sa.Column("request_id", ID, nullable=False, unique=True),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("currency_code", sa.Text(), nullable=False),
        sa.Column("total_units", INT64, nullable=False),
        sa.Column("total_nanos", sa.Integer(), nullable=False),
        sa.Column("payment_token", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", INT64, nullable=False),
        sa.Column("decline_reason", sa.Text(), nullable=False),
        sa.Column("create_time", TIME, nullable=False),
        sa.Column("update_time", TIME, nullable=False),
        # Null unless the order awaits the gateway.
        sa.Column("lease_until", TIME),
        sa.Column("lease_attempts", sa.Integer(), nullable=False, server_default="0"),
        sqlite_with_rowid=False,  # the rows lie in the order of their ids, as pages want them
        sqlite_strict=True,
    )
    op.create_index("orders_by_customer", "orders", ["customer_id", "id"])
    op.create_index("orders_by_state", "orders", ["state", "id"])
    due = sa.text("lease_until IS NOT NULL")
    op.create_index(
        "orders_by_lease",
        "orders",
        ["lease_until", "id"],
        sqlite_where=due,
        postgresql_where=due,
    )
    op.create_table(
        "order_items",
        sa.Column("order_id", ID, sa.ForeignKey("orders.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Integer(), nullable=False),
        # In the order's currency.
        sa.Column("price_units", INT64, nullable=False),
        sa.Column("price_nanos", sa.Integer(), nullable=False),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    # The outbox: what is written here in the order's own transaction is published later.
    op.create_table(
        "events",
        sa.Column("sequence", INT64, primary_key=True, autoincrement=True),
        sa.Column("order_id", ID, sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("version", INT64, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("decline_reason", sa.Text(), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.UniqueConstraint("order_id", "version", name="events_one_per_version"),
        sqlite_autoincrement=True,  # a number is never used again
        sqlite_strict=True,
    )
