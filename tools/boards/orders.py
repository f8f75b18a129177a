"""What happens to the orders, and whether it happens in time."""

from __future__ import annotations

from boards.panels import Dashboard, Panel
from boards.queries import per_second

PAYMENTS = "orderflow_payments_total"

CHANGES = [
    Panel(
        title="Changes",
        description="Versions written, by the state that the order entered.",
        queries={"{{state}}": per_second("orderflow_order_changes_total", "state")},
        unit="ops",
    ),
    Panel(
        title="Payments",
        description="Settled orders by the state they got. Unresolved and refused ones are tried "
        "again later.",
        queries={"{{outcome}}": per_second(PAYMENTS, "outcome")},
        unit="ops",
    ),
    Panel(
        title="Declined",
        description="Share of the decided payments.",
        queries={
            "declined": per_second(PAYMENTS, "job", only='outcome="PAYMENT_DECLINED"')
            + " / "
            + per_second(PAYMENTS, "job", only='outcome=~"PAID|PAYMENT_DECLINED"')
        },
        unit="percentunit",
    ),
]

PENDING = [
    Panel(
        title="Pending",
        description="Orders that wait for the gateway now. Replicas over one database see the "
        "same ones.",
        queries={"{{state}}": "max by (state) (orderflow_orders_pending{fleet})"},
        width=12,
    ),
    Panel(
        title="Age of the oldest pending order",
        description="An alert pages at 10 minutes.",
        queries={"{{state}}": "max by (state) (orderflow_orders_pending_age_seconds{fleet})"},
        unit="s",
        width=12,
        limits=(60, 600),
    ),
]

OUTBOX = [
    Panel(
        title="Events not yet published",
        description="Waiting in the outbox, and refused by the stream. An alert opens a ticket for "
        "any refused event.",
        queries={
            "waiting": "max by (job) (orderflow_outbox_waiting{fleet})",
            "refused": "max by (job) (orderflow_outbox_refused{fleet})",
        },
        width=12,
    ),
    Panel(
        title="Age of the oldest event",
        description="Of those not yet published. An alert opens a ticket at a minute.",
        queries={"age": "max by (job) (orderflow_outbox_lag_seconds{fleet})"},
        unit="s",
        width=12,
        limits=(10, 60),
    ),
]

ORDERS = Dashboard(
    name="orders",
    title="Orderflow: orders",
    description="What happens to the orders, and whether it happens in time.",
    rows={
        "Orders and payments": CHANGES,
        "Waiting for the payment gateway": PENDING,
        "Outbox": OUTBOX,
    },
)
