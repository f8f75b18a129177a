"""Orders for tests: plain, valid, and told apart by a number."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LEASE_FOR = timedelta(seconds=30)
LEASE = NOW + LEASE_FOR

ITEMS = (
    OrderItem("tea", 2, Money("EUR", 4, 500_000_000)),
    OrderItem("pot", 1, Money("EUR", 31)),
    OrderItem("cup", 6, Money("EUR", 7, 250_000_000)),
)


def order_id(number: int, time: datetime = NOW) -> UUID:
    """A UUIDv7 of the time; of one millisecond, the larger number has the larger id."""
    millis = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    return UUID(int=millis << 80 | 0x7 << 76 | 0x2 << 62 | number)


def request_id(number: int) -> UUID:
    return UUID(int=0x4 << 76 | 0x2 << 62 | number)


def new_order(
    number: int = 1,
    *,
    request: int | None = None,
    customer_id: str = "ada",
    items: tuple[OrderItem, ...] = ITEMS,
    now: datetime = NOW,
) -> Order:
    """A new order; its request id is made from `request`, else from its number."""
    draft = OrderDraft(
        request_id=request_id(number if request is None else request),
        customer_id=customer_id,
        items=items,
        payment_token="tok_visa",
    )
    return Order.place(draft, order_id=order_id(number, now), now=now, traceparent=TRACEPARENT)
