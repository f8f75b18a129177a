"""What every outbox does: tells each change until it is published, and who is to publish it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.store import FakeOrderStore
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import LONGEST_LEASE, OutboxEvent, Waiting
from orderflow_server.storage.store import EngineOrderStore

SECOND = timedelta(seconds=1)
Store = EngineOrderStore | FakeOrderStore


async def events(store: Store, limit: int = 1000) -> list[OutboxEvent]:
    return list(await store.unpublished(limit=limit))


async def orders(store: Store, limit: int = 1000) -> list[Order]:
    return [event.order for event in await events(store, limit)]


class Relay:
    """Takes the lease named relay of an outbox, at times of its clock."""

    def __init__(self, outbox: Store, clock: FakeClock) -> None:
        self._outbox = outbox
        self._clock = clock

    async def take(self, holder: str, *, at_s: float) -> bool:
        self._clock.now = NOW + at_s * SECOND
        return await self._outbox.take_lease("relay", holder=holder, lease=10 * SECOND)


@pytest.fixture
def relay(outbox: Store, clock: FakeClock) -> Relay:
    return Relay(outbox, clock)


# Events


async def test_every_change_is_told_as_the_order_was_after_it(outbox: Store) -> None:
    first = await outbox.place(new_order(1), lease=LEASE_FOR)
    second = await outbox.place(new_order(2), lease=LEASE_FOR)
    declined = first.declined("no funds", NOW + SECOND)
    await outbox.save(declined)
    assert await orders(outbox) == [first, second, declined]


async def test_what_is_no_change_is_not_told(outbox: Store) -> None:
    order = await outbox.place(new_order(1), lease=timedelta(0))
    await outbox.place(new_order(2, request=1), lease=timedelta(0))
    await outbox.lease_due(lease=LEASE_FOR, limit=1)
    await outbox.defer(order.id, delay=LEASE_FOR)
    await outbox.park(order.id, reason="stuck")
    await outbox.release(order.id)
    assert await orders(outbox) == [order]


async def test_events_come_oldest_first_however_few_are_asked_for(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease=LEASE_FOR) for n in (3, 1, 2, 5, 4)]
    assert await orders(outbox) == placed
    assert await orders(outbox, limit=2) == placed[:2]
    sequences = [event.sequence for event in await events(outbox)]
    assert sequences == sorted(set(sequences))


async def test_versions_written_at_once_are_told_in_order(outbox: Store) -> None:
    placed = await outbox.place(new_order(), lease=LEASE_FOR)
    paid = placed.paid(NOW)
    refunding = paid.refunding(NOW)
    cancelled = refunding.cancelled(NOW)
    await asyncio.gather(
        outbox.save(paid), outbox.save(refunding, lease=LEASE_FOR), outbox.save(cancelled)
    )
    assert await orders(outbox) == [placed, paid, refunding, cancelled]


async def test_what_is_marked_is_not_told_again(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease=LEASE_FOR) for n in range(4)]
    told = await events(outbox)
    await outbox.mark_published([told[2].sequence, told[0].sequence])
    assert await orders(outbox) == [placed[1], placed[3]]
    await outbox.mark_published([told[0].sequence, told[1].sequence])
    await outbox.mark_published([])
    assert await orders(outbox) == [placed[3]]
    paid = placed[0].paid(NOW)
    await outbox.save(paid)
    assert await orders(outbox) == [placed[3], paid]


async def test_the_backlog_counts_events_for_who_asks(outbox: Store, clock: FakeClock) -> None:
    assert (await outbox.backlog(events=True)).events == Waiting(0, None)
    for number in range(3):
        await outbox.place(new_order(number, now=NOW + number * SECOND), lease=LEASE_FOR)
    assert (await outbox.backlog()).events == Waiting()
    clock.now = NOW + 10 * SECOND
    assert (await outbox.backlog(events=True)).events == Waiting(3, 10 * SECOND)
    [oldest, *_] = await events(outbox)
    await outbox.mark_published([oldest.sequence])
    assert (await outbox.backlog(events=True)).events == Waiting(2, 9 * SECOND)
    clock.now = NOW
    assert (await outbox.backlog(events=True)).events == Waiting(2, 0 * SECOND)


# Refused events


async def refuse(store: Store, *numbers: int, reason: str = "too large") -> list[int]:
    """Refuse the events with these numbers among the unpublished; return their sequences."""
    found = await events(store)
    sequences = [found[number].sequence for number in numbers]
    await store.refuse(dict.fromkeys(sequences, reason))
    return sequences


async def test_a_refused_event_holds_up_later_versions_of_its_order_only(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease=LEASE_FOR) for n in range(3)]
    for order in placed:
        await outbox.save(order.paid(NOW))
    # Of the first order the second version is refused, of the second the first.
    await refuse(outbox, 1, 3)
    later = await outbox.place(new_order(9), lease=LEASE_FOR)
    assert await orders(outbox) == [placed[0], placed[2], placed[2].paid(NOW), later]
    assert await orders(outbox, limit=2) == [placed[0], placed[2]]


async def test_refused_events_are_listed_oldest_first_with_their_reason(
    outbox: Store, clock: FakeClock
) -> None:
    order = await outbox.place(new_order(1), lease=LEASE_FOR)
    await outbox.save(order.paid(NOW))
    other = await outbox.place(new_order(2), lease=LEASE_FOR)
    [second] = await refuse(outbox, 2, reason="larger than 1 MB")
    clock.now += 10 * SECOND
    [first] = await refuse(outbox, 1, reason='subject "orders.x" \N{SNOWMAN} refused')
    clock.now += 5 * SECOND
    await outbox.refuse({first: "again"})
    listed = await outbox.refused(limit=10)
    assert [(e.sequence, e.order_id, e.version, e.state, e.reason) for e in listed] == [
        (first, order.id, 2, OrderState.PAID, 'subject "orders.x" \N{SNOWMAN} refused'),
        (second, other.id, 1, OrderState.PENDING_PAYMENT, "larger than 1 MB"),
    ]
    assert [event.age for event in listed] == [5 * SECOND, 15 * SECOND]
    assert list(await outbox.refused(limit=1)) == list(listed[:1])


async def test_a_retried_event_is_ready_again_with_those_behind_it(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease=LEASE_FOR) for n in range(3)]
    await outbox.save(placed[0].paid(NOW))
    sequences = await refuse(outbox, 0, 1, 2)
    assert await orders(outbox) == []
    assert await outbox.retry_refused([sequences[0], 10**15]) == (sequences[0],)
    assert await outbox.retry_refused([sequences[0]]) == ()
    assert await orders(outbox) == [placed[0], placed[0].paid(NOW)]
    assert await outbox.retry_refused() == tuple(sequences[1:])
    assert await outbox.retry_refused() == ()
    assert await orders(outbox) == [*placed, placed[0].paid(NOW)]
    assert list(await outbox.refused(limit=10)) == []


async def test_behind_a_skipped_event_the_later_versions_are_ready(outbox: Store) -> None:
    placed = await outbox.place(new_order(1), lease=LEASE_FOR)
    paid = placed.paid(NOW)
    await outbox.save(paid)
    [sequence] = await refuse(outbox, 0)
    assert await outbox.skip_refused([sequence, 10**15]) == (sequence,)
    assert await outbox.skip_refused([sequence]) == ()
    assert await outbox.retry_refused() == ()
    assert await orders(outbox) == [paid]
    assert list(await outbox.refused(limit=10)) == []


async def test_only_refused_events_can_be_skipped(outbox: Store) -> None:
    order = await outbox.place(new_order(1), lease=LEASE_FOR)
    [event] = await events(outbox)
    assert await outbox.skip_refused([event.sequence]) == ()
    assert await orders(outbox) == [order]


async def test_a_published_event_cannot_be_refused(outbox: Store) -> None:
    order = await outbox.place(new_order(1), lease=LEASE_FOR)
    [event] = await events(outbox)
    await outbox.mark_published([event.sequence])
    await outbox.refuse({event.sequence: "late", 10**15: "unknown"})
    await outbox.refuse({})
    assert list(await outbox.refused(limit=10)) == []
    await outbox.save(order.paid(NOW))
    assert await orders(outbox) == [order.paid(NOW)]


async def test_events_of_excluded_orders_are_left_out(outbox: Store) -> None:
    placed = [await outbox.place(new_order(n), lease=LEASE_FOR) for n in range(4)]
    await outbox.save(placed[0].paid(NOW))
    ready = await outbox.unpublished(limit=2, without={placed[0].id, placed[2].id})
    assert [event.order for event in ready] == [placed[1], placed[3]]


async def test_the_backlog_counts_refused_events_apart_and_none_behind_them(
    outbox: Store, clock: FakeClock
) -> None:
    placed = [
        await outbox.place(new_order(n, now=NOW + n * SECOND), lease=LEASE_FOR) for n in range(3)
    ]
    for order in placed:
        await outbox.save(order.paid(NOW + 10 * SECOND))
    await refuse(outbox, 0, 4)
    clock.now = NOW + 10 * SECOND
    backlog = await outbox.backlog(events=True)
    assert (backlog.events, backlog.refused) == (Waiting(3, 9 * SECOND), 2)
    assert (await outbox.backlog()).refused == 0
    await outbox.retry_refused()
    backlog = await outbox.backlog(events=True)
    assert (backlog.events, backlog.refused) == (Waiting(6, 10 * SECOND), 0)


# Leases


async def test_one_holder_at_a_time_has_the_lease(outbox: Store, relay: Relay) -> None:
    assert await relay.take("a", at_s=0)
    assert not await relay.take("b", at_s=9.999)
    assert await relay.take("b", at_s=10)
    assert not await relay.take("a", at_s=10)


async def test_the_holder_renews_its_lease(outbox: Store, relay: Relay) -> None:
    assert await relay.take("a", at_s=0)
    assert await relay.take("a", at_s=5)
    assert not await relay.take("b", at_s=14)
    assert await relay.take("a", at_s=14)


async def test_a_lease_that_is_given_up_is_anybodys(outbox: Store, relay: Relay) -> None:
    assert await relay.take("a", at_s=0)
    await outbox.give_up_lease("relay", holder="b")
    assert not await relay.take("b", at_s=1)
    await outbox.give_up_lease("relay", holder="a")
    await outbox.give_up_lease("relay", holder="a")
    assert await relay.take("b", at_s=1)
    assert not await relay.take("a", at_s=1)


async def test_leases_of_other_names_are_other_leases(outbox: Store, relay: Relay) -> None:
    assert await relay.take("a", at_s=0)
    assert await outbox.take_lease("other", holder="b", lease=LEASE_FOR)
    await outbox.give_up_lease("other", holder="b")
    assert not await relay.take("b", at_s=1)


async def test_of_many_at_once_one_gets_the_lease(outbox: Store, relay: Relay) -> None:
    taken = await asyncio.gather(*(relay.take(f"holder {n}", at_s=0) for n in range(50)))
    assert sum(taken) == 1
    [winner] = [f"holder {n}" for n, got_it in enumerate(taken) if got_it]
    assert await relay.take(winner, at_s=1)


async def test_a_clock_set_back_by_a_day_leaves_no_lease_behind(
    outbox: Store, relay: Relay
) -> None:
    assert await relay.take("a", at_s=86400)
    assert await relay.take("b", at_s=0)
    assert not await relay.take("a", at_s=9)


async def test_a_named_lease_out_of_range_is_refused(outbox: Store) -> None:
    for lease in (-SECOND, LONGEST_LEASE + SECOND):
        with pytest.raises(ValueError, match=r"range|from 0 to"):
            await outbox.take_lease("relay", holder="a", lease=lease)
