"""What an operator does about orders that are parked."""

from __future__ import annotations

from datetime import timedelta

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, NOW, new_order, order_id
from fakes.store import FakeOrderStore
from orderflow_server.parked import list_parked, release


async def parked_orders(*numbers: int) -> FakeOrderStore:
    """Orders parked one second after the other, and one that is not."""
    store = FakeOrderStore(clock := FakeClock())
    for number in numbers:
        await store.place(new_order(number), lease=LEASE_FOR)
        await store.park(order_id(number), reason="stuck")
        clock.advance(timedelta(seconds=1))
    await store.place(new_order(99), lease=LEASE_FOR)
    return store


async def test_parked_orders_are_listed_longest_parked_first_without_what_is_the_customer_s() -> (
    None
):
    store = await parked_orders(2, 1, 3)
    listed = await list_parked(store, limit=2)
    assert [line["order_id"] for line in listed] == [str(order_id(2)), str(order_id(1))]
    assert listed[0] == {
        "order_id": str(order_id(2)),
        "state": "PENDING_PAYMENT",
        "since": NOW.isoformat(),
        "currency_code": "EUR",
        "units": 83,
        "nanos": 500_000_000,
        "payment_key": f"order-{order_id(2)}",
    }


async def test_a_released_order_is_due_at_once_and_who_was_not_parked_is_told() -> None:
    store = await parked_orders(1, 2)
    unknown, not_parked = order_id(50), order_id(99)

    left = await release(store, [order_id(1), unknown, not_parked])

    assert left == [unknown, not_parked]
    assert [line["order_id"] for line in await list_parked(store, limit=10)] == [str(order_id(2))]
    due = await store.lease_due(lease=LEASE_FOR, limit=10)
    assert [(leased.order.id, leased.attempts) for leased in due] == [(order_id(1), 1)]
