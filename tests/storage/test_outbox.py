"""What every outbox does: tells each change until it is published, and who is to publish it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from fakes.orders import LEASE, NOW, new_order
from fakes.store import FakeOrderStore
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent, Waiting
from orderflow_server.storage.store import EngineOrderStore

SECOND = timedelta(seconds=1)
Store = EngineOrderStore | FakeOrderStore


async def events(store: Store, limit: int = 1000) -> list[OutboxEvent]:
    return list(await store.unpublished(limit=limit))


async def orders(store: Store, limit: int = 1000) -> list[Order]:
    return [event.order for event in await events(store, limit)]


async def take(store: Store, holder: str, at_s: float, *, for_s: float = 10) -> bool:
    now = NOW + at_s * SECOND
    return await store.take_lease("relay", holder=holder, now=now, until=now + for_s * SECOND)


# Events


async def test_every_change_is_told_as_the_order_was_after_it(outbox: Store) -> None:
    first = await outbox.place(new_order(1), lease_until=LEASE)
    second = await outbox.place(new_order(2), lease_until=LEASE)
    declined = first.declined("no funds", NOW + SECOND)
    await outbox.save(declined)
    assert await orders(outbox) == [first, second, declined]


async def test_what_is_no_change_is_not_told(outbox: Store) -> None:
    order = await outbox.place(new_order(1), lease_until=NOW)
    await outbox.place(new_order(2, request=1), lease_until=NOW)
    await outbox.lease_due(now=NOW, lease_until=LEASE, limit=1)
    await outbox.defer(order.id, until=LEASE)
    await outbox.park(order.id, now=NOW)
    await outbox.release(order.id, now=NOW)
    assert await orders(outbox) == [order]


async def test_events_come_oldest_first_however_few_are_asked_for(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease_until=LEASE) for n in (3, 1, 2, 5, 4)]
    assert await orders(outbox) == placed
    assert await orders(outbox, limit=2) == placed[:2]
    sequences = [event.sequence for event in await events(outbox)]
    assert sequences == sorted(set(sequences))


async def test_versions_written_at_once_are_told_in_order(outbox: Store) -> None:
    placed = await outbox.place(new_order(), lease_until=LEASE)
    paid = placed.paid(NOW)
    refunding = paid.refunding(NOW)
    cancelled = refunding.cancelled(NOW)
    await asyncio.gather(
        outbox.save(paid), outbox.save(refunding, lease_until=LEASE), outbox.save(cancelled)
    )
    assert await orders(outbox) == [placed, paid, refunding, cancelled]


async def test_what_is_marked_is_not_told_again(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease_until=LEASE) for n in range(4)]
    told = await events(outbox)
    await outbox.mark_published([told[2].sequence, told[0].sequence])
    assert await orders(outbox) == [placed[1], placed[3]]
    await outbox.mark_published([told[0].sequence, told[1].sequence])
    await outbox.mark_published([])
    assert await orders(outbox) == [placed[3]]
    paid = placed[0].paid(NOW)
    await outbox.save(paid)
    assert await orders(outbox) == [placed[3], paid]


async def test_the_backlog_counts_events_for_who_asks(outbox: Store) -> None:
    assert (await outbox.backlog(events=True)).events == Waiting(0, None)
    for number in range(3):
        await outbox.place(new_order(number, now=NOW + number * SECOND), lease_until=LEASE)
    assert (await outbox.backlog()).events == Waiting()
    assert (await outbox.backlog(events=True)).events == Waiting(3, NOW)
    [oldest, *_] = await events(outbox)
    await outbox.mark_published([oldest.sequence])
    assert (await outbox.backlog(events=True)).events == Waiting(2, NOW + SECOND)


# Leases


async def test_one_holder_at_a_time_has_the_lease(outbox: Store) -> None:
    assert await take(outbox, "a", at_s=0)
    assert not await take(outbox, "b", at_s=9.999)
    assert await take(outbox, "b", at_s=10)
    assert not await take(outbox, "a", at_s=10)


async def test_the_holder_renews_its_lease(outbox: Store) -> None:
    assert await take(outbox, "a", at_s=0)
    assert await take(outbox, "a", at_s=5)
    assert not await take(outbox, "b", at_s=14)
    assert await take(outbox, "a", at_s=14)


async def test_a_lease_that_is_given_up_is_anybodys(outbox: Store) -> None:
    assert await take(outbox, "a", at_s=0)
    await outbox.give_up_lease("relay", holder="b")
    assert not await take(outbox, "b", at_s=1)
    await outbox.give_up_lease("relay", holder="a")
    await outbox.give_up_lease("relay", holder="a")
    assert await take(outbox, "b", at_s=1)
    assert not await take(outbox, "a", at_s=1)


async def test_leases_of_other_names_are_other_leases(outbox: Store) -> None:
    assert await take(outbox, "a", at_s=0)
    assert await outbox.take_lease("other", holder="b", now=NOW, until=LEASE)
    await outbox.give_up_lease("other", holder="b")
    assert not await take(outbox, "b", at_s=1)


async def test_of_many_at_once_one_gets_the_lease(outbox: Store) -> None:
    taken = await asyncio.gather(*(take(outbox, f"holder {n}", at_s=0) for n in range(50)))
    assert sum(taken) == 1
    [winner] = [f"holder {n}" for n, got_it in enumerate(taken) if got_it]
    assert await take(outbox, winner, at_s=1)
