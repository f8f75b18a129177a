"""How an order is kept in columns.

UUIDs are text, times microseconds since 1970, and money two integers. What is read comes as
JSON, one text for any number of rows, for the reason given in `bulk`. What is written are texts,
integers and byte arrays: for all else, bytes and None too, sqlite3 looks for an adapter first, at
several times the cost of the value.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from orderflow_server.orders.ids import text_of
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderChange, OrderItem, OrderState
from orderflow_server.orders.ports import OutboxEvent, RefusedEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

ORDER_JSON = """
json_array(
    o.id, o.request_id, o.customer_id, o.currency_code, o.total_units, o.total_nanos,
    o.payment_token, hex(o.content_hash), o.state, o.version, o.decline_reason,
    o.create_time, o.update_time, o.traceparent, o.lease_attempts,
    json((
        SELECT json_group_array(json_array(sku, quantity, price_units, price_nanos))
        FROM (SELECT * FROM order_items WHERE order_id = o.id ORDER BY position)
    ))
)
"""
"""One row `o` of the orders with its items, for `order_from`."""

CHANGE_JSON = "json_array(order_id, version, state, decline_reason, time)"
"""One row of the events, for `change_from`."""

EVENT_JSON = (
    "json_array(e.sequence, json_array(e.order_id, e.version, e.state, e.decline_reason, e.time), "
    f"{ORDER_JSON})"
)
"""One row `e` of the events with its row `o` of the orders, for `event_from`."""


def micros(time: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (time - _EPOCH) // MICROSECOND


def from_micros(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def order_row(order: Order, order_id: str, now: int, lease: timedelta) -> tuple[Any, ...]:
    """The columns of `orders`, in the order of `writes.INSERT_ORDERS`."""
    return (
        order_id,
        text_of(order.request_id),
        order.customer_id,
        order.total.currency_code,
        order.total.units,
        order.total.nanos,
        order.payment_token,
        bytearray(order.content_hash),
        order.state.value,
        order.version,
        order.decline_reason,
        micros(order.create_time),
        micros(order.update_time),
        now + lease // MICROSECOND,
        order.traceparent,
        now,
    )


def item_rows(order: Order, order_id: str) -> list[tuple[Any, ...]]:
    """The columns of `order_items`, in the order of `writes.INSERT_ITEMS`."""
    return [
        (order_id, position, item.sku, item.quantity, item.unit_price.units, item.unit_price.nanos)
        for position, item in enumerate(order.items)
    ]


def event_row(order: Order, order_id: str) -> tuple[Any, ...]:
    """The columns of `events`, in the order of `writes.INSERT_EVENTS`."""
    return (
        order_id,
        order.version,
        order.state.value,
        order.decline_reason,
        micros(order.update_time),
    )


def order_from(values: list[Any]) -> Order:
    """The order in the values of `ORDER_JSON`."""
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
        _lease_attempts,
        items,
    ) = values
    return Order(
        id=UUID(order_id),
        request_id=UUID(request_id),
        customer_id=customer_id,
        items=tuple(
            OrderItem(sku, quantity, Money(currency_code, units, nanos))
            for sku, quantity, units, nanos in items
        ),
        total=Money(currency_code, total_units, total_nanos),
        payment_token=payment_token,
        content_hash=bytes.fromhex(content_hash),
        state=OrderState(state),
        version=version,
        decline_reason=decline_reason,
        create_time=from_micros(create_time),
        update_time=from_micros(update_time),
        traceparent=traceparent,
    )


def lease_attempts_from(values: list[Any]) -> int:
    """The column `lease_attempts` in the values of `ORDER_JSON`."""
    attempts: int = values[-2]
    return attempts


def change_from(values: list[Any]) -> OrderChange:
    """The change in the values of `CHANGE_JSON`."""
    order_id, version, state, decline_reason, time = values
    return OrderChange(
        order_id=UUID(order_id),
        version=version,
        state=OrderState(state),
        decline_reason=decline_reason,
        time=from_micros(time),
    )


def event_from(values: list[Any]) -> OutboxEvent:
    """The event in the values of `EVENT_JSON`."""
    sequence, change, order = values
    return OutboxEvent(sequence, order_from(order).at(change_from(change)))


def refused_from(values: list[Any], age: timedelta) -> RefusedEvent:
    """The refused event in the values of `reads.REFUSED_EVENTS`, but for its time."""
    sequence, order_id, version, state, reason = values
    return RefusedEvent(
        sequence=sequence,
        order_id=UUID(order_id),
        version=version,
        state=OrderState(state),
        reason=reason,
        age=age,
    )
