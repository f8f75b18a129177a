"""What every store does with orders that are parked."""

from __future__ import annotations

from datetime import timedelta

from fakes.orders import LEASE, NOW, new_order, order_id
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ports import Backlog, LeasedOrder, OrderStore, Waiting

SECOND = timedelta(seconds=1)


async def leased(store: OrderStore, at_s: int) -> list[LeasedOrder]:
    now = LEASE + at_s * SECOND
    return list(await store.lease_due(now=now, lease_until=now + SECOND, limit=10))


async def test_a_parked_order_is_leased_to_nobody_until_it_is_released(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    assert await leased(store, at_s=0) == [LeasedOrder(order, attempts=1)]
    await store.park(order.id, now=LEASE)
    assert await leased(store, at_s=3600) == []
    assert await store.release(order.id, now=LEASE + 3601 * SECOND)
    assert await leased(store, at_s=3600) == []
    assert await leased(store, at_s=3601) == [LeasedOrder(order, attempts=1)]


async def test_parking_changes_nothing_that_a_caller_sees(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    await store.park(order.id, now=NOW)
    assert await store.get(order.id) == order
    assert await store.changes(order.id, after_version=1) == []
    await store.release(order.id, now=NOW)
    assert await store.get(order.id) == order
    assert await store.changes(order.id, after_version=1) == []


async def test_only_what_awaits_the_gateway_is_parked(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    await store.save(order.paid(NOW))
    await store.park(order.id, now=NOW)
    await store.park(order_id(99), now=NOW)
    assert list(await store.parked(limit=10)) == []
    assert not await store.release(order.id, now=NOW)
    assert not await store.release(order_id(99), now=NOW)
    assert await leased(store, at_s=0) == []


async def test_only_what_is_parked_is_released(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    assert not await store.release(order.id, now=NOW)
    assert await leased(store, at_s=-1) == []
    await store.park(order.id, now=NOW)
    assert await store.release(order.id, now=NOW)
    assert not await store.release(order.id, now=NOW)


async def test_deferring_a_parked_order_leaves_it_parked(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    await store.park(order.id, now=NOW)
    await store.defer(order.id, until=LEASE)
    assert await leased(store, at_s=0) == []
    assert list(await store.parked(limit=10)) == [order]


async def test_the_longest_parked_are_told_first_and_parking_again_does_not_count(
    store: OrderStore,
) -> None:
    orders = [await store.place(new_order(number), lease_until=LEASE) for number in range(4)]
    for waits_s, order in zip((1, 3, 0, 2), orders, strict=True):
        await store.park(order.id, now=NOW - waits_s * SECOND)
    await store.park(orders[1].id, now=NOW + SECOND)
    longest_first = [orders[1], orders[3], orders[0], orders[2]]
    assert list(await store.parked(limit=10)) == longest_first
    assert list(await store.parked(limit=3)) == longest_first[:3]


async def test_a_saved_version_is_not_parked(store: OrderStore) -> None:
    order = await store.place(new_order(), lease_until=LEASE)
    await store.park(order.id, now=NOW)
    paid = order.paid(NOW)
    await store.save(paid)
    assert list(await store.parked(limit=10)) == []
    refunding = paid.refunding(NOW)
    await store.save(refunding, lease_until=LEASE)
    await store.park(order.id, now=NOW)
    assert list(await store.parked(limit=10)) == [refunding]
    await store.save(refunding.cancelled(NOW))
    assert list(await store.parked(limit=10)) == []
    assert not await store.release(order.id, now=NOW)


async def test_the_backlog_counts_what_is_parked_apart(store: OrderStore) -> None:
    orders = [
        await store.place(new_order(number, now=NOW + number * SECOND), lease_until=LEASE)
        for number in range(3)
    ]
    await store.park(orders[0].id, now=NOW)
    await store.park(orders[2].id, now=NOW)
    pending = Waiting(1, orders[1].create_time)
    assert await store.backlog() == Backlog(orders={OrderState.PENDING_PAYMENT: pending}, parked=2)
