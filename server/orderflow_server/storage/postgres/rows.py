"""How an order is kept in columns: as PostgreSQL's own types, and money as two integers."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderChange, OrderItem, OrderState
from orderflow_server.orders.ports import OutboxEvent, RefusedEvent

ORDER_COLUMNS = """
o.id, o.request_id, o.customer_id, o.currency_code, o.total_units, o.total_nanos,
o.payment_token, o.content_hash, o.state, o.version, o.decline_reason,
o.create_time, o.update_time, o.traceparent,
ARRAY(
    SELECT (i.sku, i.quantity, i.price_units, i.price_nanos)
    FROM order_items AS i WHERE i.order_id = o.id ORDER BY i.position
)
"""
"""One row `o` of the orders with its items, for `order_from`."""

CHANGE_COLUMNS = "e.order_id, e.version, e.state, e.decline_reason, e.time"
"""One row `e` of the events, for `change_from`."""

_CHANGE_WIDTH = 5


def order_from(values: Iterable[Any]) -> Order:
    """The order in the values of `ORDER_COLUMNS`."""
    (
        order_id,
        request_id,
        customer_id,
        currency_code,
        total_units,
        total_nanos,
        payment_token,
        content_hash,
        state,
        version,
        decline_reason,
        create_time,
        update_time,
        traceparent,
        items,
    ) = values
    return Order(
        id=order_id,
        request_id=request_id,
        customer_id=customer_id,
        items=tuple(
            OrderItem(sku, quantity, Money(currency_code, units, nanos))
            for sku, quantity, units, nanos in items
        ),
        total=Money(currency_code, total_units, total_nanos),
        payment_token=payment_token,
        content_hash=content_hash,
        state=OrderState(state),
        version=version,
        decline_reason=decline_reason,
        create_time=create_time,
        update_time=update_time,
        traceparent=traceparent,
    )


def change_from(values: Iterable[Any]) -> OrderChange:
    """The change in the values of `CHANGE_COLUMNS`."""
    order_id, version, state, decline_reason, time = values
    return OrderChange(
        order_id=order_id,
        version=version,
        state=OrderState(state),
        decline_reason=decline_reason,
        time=time,
    )


def event_from(sequence: int, *values: Any) -> OutboxEvent:
    """The event in its sequence, the values of `CHANGE_COLUMNS` and those of `ORDER_COLUMNS`."""
    change = change_from(values[:_CHANGE_WIDTH])
    return OutboxEvent(sequence, order_from(values[_CHANGE_WIDTH:]).at(change))


def refused_from(
    sequence: int, order_id: UUID, version: int, state: str, reason: str, age: timedelta
) -> RefusedEvent:
    return RefusedEvent(
        sequence=sequence,
        order_id=order_id,
        version=version,
        state=OrderState(state),
        reason=reason,
        age=age,
    )


def text(value: str) -> str:
    """What may be any text as PostgreSQL can keep it, which is without NUL."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in value else value
