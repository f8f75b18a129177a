"""What every store does with orders that are parked."""

from __future__ import annotations

from datetime import timedelta

from fakes.clock import FakeClock
from fakes.orders import LEASE, LEASE_FOR, NOW, new_order, order_id
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import Backlog, LeasedOrder, OrderStore, ParkedOrder, Waiting

SECOND = timedelta(seconds=1)


async def leased(store: OrderStore) -> list[LeasedOrder]:
    return list(await store.lease_due(lease=SECOND, limit=10))


async def parked(store: OrderStore, limit: int = 10, reason: str = "") -> list[Order]:
    return [each.order for each in await store.parked(limit=limit, reason=reason)]


async def test_a_parked_order_is_leased_to_nobody_until_it_is_released(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    clock.now = LEASE
    assert await leased(store) == [LeasedOrder(order, attempts=1)]
    await store.park(order.id, reason="stuck")
    clock.advance(3600 * SECOND)
    assert await leased(store) == []
    assert await store.release(order.id)
    assert await leased(store) == [LeasedOrder(order, attempts=1)]
    assert await leased(store) == []


async def test_parking_changes_nothing_that_a_caller_sees(store: OrderStore) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    await store.park(order.id, reason="stuck")
    assert await store.get(order.id) == order
    assert await store.changes(order.id, after_version=1) == []
    await store.release(order.id)
    assert await store.get(order.id) == order
    assert await store.changes(order.id, after_version=1) == []


async def test_only_what_awaits_the_gateway_is_parked(store: OrderStore, clock: FakeClock) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    await store.save(order.paid(NOW))
    await store.park(order.id, reason="stuck")
    await store.park(order_id(99), reason="stuck")
    assert await parked(store) == []
    assert not await store.release(order.id)
    assert not await store.release(order_id(99))
    clock.now = LEASE
    assert await leased(store) == []


async def test_only_what_is_parked_is_released(store: OrderStore, clock: FakeClock) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    assert not await store.release(order.id)
    clock.now = LEASE - SECOND
    assert await leased(store) == []
    await store.park(order.id, reason="stuck")
    assert await store.release(order.id)
    assert not await store.release(order.id)


async def test_deferring_a_parked_order_leaves_it_parked(
    store: OrderStore, clock: FakeClock
) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    await store.park(order.id, reason="stuck")
    await store.defer(order.id, delay=LEASE_FOR)
    clock.now = LEASE
    assert await leased(store) == []
    assert await parked(store) == [order]


async def test_the_longest_parked_are_told_first_and_parking_again_does_not_count(
    store: OrderStore, clock: FakeClock
) -> None:
    orders = [await store.place(new_order(number), lease=LEASE_FOR) for number in range(4)]
    for waits_s, number in ((3, 1), (2, 3), (1, 0), (0, 2)):
        clock.now = NOW - waits_s * SECOND
        await store.park(orders[number].id, reason="stuck")
    clock.now = NOW + SECOND
    await store.park(orders[1].id, reason="still stuck")
    longest_first = [orders[1], orders[3], orders[0], orders[2]]
    assert await parked(store) == longest_first
    assert await parked(store, limit=3) == longest_first[:3]
    found = await store.parked(limit=10)
    assert [each.age for each in found] == [age * SECOND for age in (4, 3, 2, 1)]
    assert {each.reason for each in found} == {"stuck"}


async def test_a_parked_order_has_its_reason_and_attempts_until_it_is_released(
    store: OrderStore,
) -> None:
    order = await store.place(new_order(), lease=timedelta(0))
    for _ in range(2):
        await store.lease_due(lease=timedelta(0), limit=1)
    await store.park(order.id, reason="refused: no such token 💳")
    [found] = await store.parked(limit=10)
    assert found == ParkedOrder(order, timedelta(0), "refused: no such token 💳", 2)
    await store.release(order.id)
    await store.park(order.id, reason="")
    assert await store.parked(limit=10) == [ParkedOrder(order, timedelta(0), "", 0)]


async def test_parked_orders_are_found_by_the_beginning_of_their_reason(store: OrderStore) -> None:
    reasons = ["refused: 50%", "refused: a_b", "answer: refused", ""]
    orders = [await store.place(new_order(number), lease=LEASE_FOR) for number in range(4)]
    for order, reason in zip(orders, reasons, strict=True):
        await store.park(order.id, reason=reason)
    assert await parked(store, reason="refused") == orders[:2]
    assert await parked(store, reason="refused", limit=1) == orders[:1]
    assert await parked(store, reason="refused: 50%") == orders[:1]
    assert await parked(store, reason="Refused") == await parked(store, reason="%") == []
    assert await parked(store, reason="refused:_") == []
    assert await parked(store, reason="answer: refused, and more") == []
    assert await parked(store) == orders


async def test_a_saved_version_is_not_parked(store: OrderStore) -> None:
    order = await store.place(new_order(), lease=LEASE_FOR)
    await store.park(order.id, reason="stuck")
    paid = order.paid(NOW)
    await store.save(paid)
    assert await parked(store) == []
    refunding = paid.refunding(NOW)
    await store.save(refunding, lease=LEASE_FOR)
    await store.park(order.id, reason="stuck")
    assert await parked(store) == [refunding]
    await store.save(refunding.cancelled(NOW))
    assert await parked(store) == []
    assert not await store.release(order.id)


async def test_the_backlog_counts_what_is_parked_apart(store: OrderStore, clock: FakeClock) -> None:
    orders = []
    for number in range(3):
        orders.append(await store.place(new_order(number), lease=LEASE_FOR))
        clock.advance(SECOND)
    await store.park(orders[0].id, reason="stuck")
    await store.park(orders[2].id, reason="stuck")
    pending = Waiting(1, 2 * SECOND)
    assert await store.backlog() == Backlog(orders={OrderState.PENDING_PAYMENT: pending}, parked=2)
