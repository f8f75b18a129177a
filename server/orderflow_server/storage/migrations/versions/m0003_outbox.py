"""Orders that are parked, events that are published, and leases that one replica has at a time.

All of it has defaults: a server of before goes on writing beside one of after.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TIME = sa.Integer().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
"""SQLite: microseconds since 1970."""
FLAG = sa.Integer().with_variant(sa.Boolean(), "postgresql")


def upgrade() -> None:
    # Since when. A parked order has no lease, so that nobody takes it, a server of before neither.
    op.add_column("orders", sa.Column("parked_time", TIME))
    parked = sa.text("parked_time IS NOT NULL")
    op.create_index(
        "orders_by_parking",
        "orders",
        ["parked_time", "id"],
        sqlite_where=parked,
        postgresql_where=parked,
    )
    no = sa.text("0" if op.get_bind().dialect.name == "sqlite" else "false")
    op.add_column("events", sa.Column("published", FLAG, nullable=False, server_default=no))
    unpublished = sa.text("NOT published")
    op.create_index(
        "events_unpublished",
        "events",
        ["sequence"],
        sqlite_where=unpublished,
        postgresql_where=unpublished,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", TIME, nullable=False),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
