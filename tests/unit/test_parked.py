"""What an operator does about orders that are parked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, new_order, order_id
from fakes.store import FakeOrderStore
from orderflow_server.parked import Release, list_parked, release, release_all


async def parked_orders(*numbers: int) -> FakeOrderStore:
    """Orders parked one second after the other, and one that is not."""
    store = FakeOrderStore(clock := FakeClock())
    for number in numbers:
        await store.place(new_order(number), lease=LEASE_FOR)
        await store.park(order_id(number), reason="stuck")
        clock.advance(timedelta(seconds=1))
    await store.place(new_order(99), lease=LEASE_FOR)
    return store


async def test_parked_orders_are_listed_longest_parked_first_without_customer_data() -> None:
    store = await parked_orders(2, 1, 3)
    listed = await list_parked(store, limit=2)
    assert [line["order_id"] for line in listed] == [str(order_id(2)), str(order_id(1))]
    assert listed[0] == {
        "order_id": str(order_id(2)),
        "state": "PENDING_PAYMENT",
        "reason": "stuck",
        "attempts": 0,
        "parked_for_s": 3.0,
        "currency_code": "EUR",
        "units": 83,
        "nanos": 500_000_000,
        "payment_key": f"order-{order_id(2)}",
    }


async def released(results: AsyncIterator[tuple[UUID, Release]]) -> dict[UUID, str]:
    return {order_id: result.value async for order_id, result in results}


async def test_release_makes_an_order_due_at_once_and_reports_the_result_of_each() -> None:
    store = await parked_orders(1, 2)
    unknown, not_parked = order_id(50), order_id(99)

    assert await released(release(store, [order_id(1), unknown, not_parked])) == {
        order_id(1): "released",
        unknown: "not found",
        not_parked: "not parked",
    }
    assert [line["order_id"] for line in await list_parked(store, limit=10)] == [str(order_id(2))]
    due = await store.lease_due(lease=LEASE_FOR, limit=10)
    assert [(leased.order.id, leased.attempts) for leased in due] == [(order_id(1), 1)]


async def test_release_is_idempotent() -> None:
    store = await parked_orders(1)
    assert await released(release(store, [order_id(1)])) == {order_id(1): "released"}
    assert await released(release(store, [order_id(1)])) == {order_id(1): "not parked"}


async def test_release_of_all_can_be_limited_to_a_reason() -> None:
    store = await parked_orders(1, 2)
    await store.place(new_order(3), lease=LEASE_FOR)
    await store.park(order_id(3), reason="REFUSED_UNIMPLEMENTED: x")

    assert await released(release_all(store, reason="REFUSED")) == {order_id(3): "released"}
    assert await released(release_all(store)) == {
        order_id(1): "released",
        order_id(2): "released",
    }
    assert await released(release_all(store)) == {}
