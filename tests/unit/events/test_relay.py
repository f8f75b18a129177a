"""The relay: every event is published, in order per order, by one relay at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise

import pytest
from structlog.testing import capture_logs

from fakes.clock import FakeClock
from fakes.events import (
    FakePublisher,
    SteppedOutbox,
    SteppedPublisher,
    assert_each_once_and_in_order,
    first_arrivals,
    write,
)
from fakes.naps import Naps
from fakes.orders import order_id
from fakes.process import tasks_left
from fakes.steps import Point
from fakes.store import FakeOrderStore
from harness import until
from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventPublisher,
    EventRefused,
    EventSetAside,
    LeadChanged,
    PublishFailed,
    RelayEvent,
    event_id,
)
from orderflow_server.events.relay import LEASE, OutboxRelay, RelayOptions
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import LONGEST_LEASE, Outbox

OPTIONS = RelayOptions(batch=100, poll_interval_s=0.5, lease_s=6.0, patience_s=6.0)
GATHER_S = 0.02
ORDER_BACKOFF_S = 0.5
"""The first delay of an order that fails while others succeed; doubles from there."""


async def yield_only(delay_s: float) -> None:
    await asyncio.sleep(0)


class World:
    """What relays share, and what they told."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeOrderStore(self.clock)
        self.publisher = FakePublisher()
        self.told: list[RelayEvent] = []

    def relay(
        self,
        holder: str = "one",
        *,
        sleep: Callable[[float], Awaitable[None]] = yield_only,
        options: RelayOptions = OPTIONS,
        outbox: Outbox | None = None,
        publisher: EventPublisher | None = None,
    ) -> OutboxRelay:
        return OutboxRelay(
            outbox=outbox or self.store,
            publisher=publisher or self.publisher,
            holder=holder,
            clock=self.clock.monotonic,
            options=options,
            listener=self.told.append,
            sleep=sleep,
            random=lambda: 0.5,
        )

    async def all_marked(self) -> bool:
        return not await self.store.unpublished(limit=1)


@asynccontextmanager
async def running(relay: OutboxRelay) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(relay.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_each_event_is_published_once_in_order_and_marked() -> None:
    world, naps = World(), Naps()
    orders = [await write(world.store, number, versions=number % 4 + 1) for number in range(1, 30)]
    async with running(world.relay(sleep=naps)):
        await naps.fallen_asleep()

    assert_each_once_and_in_order(world.publisher.ids, orders)
    assert await world.all_marked()
    published = [event.event.order for event in world.told if isinstance(event, EventPublished)]
    assert published == world.publisher.arrived
    assert world.told[0] == LeadChanged(leads=True)


async def test_an_event_waits_for_the_one_before_it_and_for_no_other_orders() -> None:
    world, naps = World(), Naps()
    orders = [await write(world.store, number) for number in range(1, 11)]
    world.publisher.open.clear()
    async with running(world.relay(sleep=naps)):
        await until(lambda: world.publisher.under_way)
        assert world.publisher.under_way == len(orders)

        world.publisher.open.set()
        await naps.fallen_asleep()
    assert_each_once_and_in_order(world.publisher.ids, orders)


async def test_full_batches_follow_each_other_without_a_rest() -> None:
    world, naps = World(), Naps()
    orders = [await write(world.store, number) for number in range(1, 11)]
    async with running(world.relay(sleep=naps, options=RelayOptions(batch=5))):
        await naps.fallen_asleep()
        assert naps.delays == [0.5]
    assert_each_once_and_in_order(world.publisher.ids, orders)


async def test_after_a_batch_that_was_not_full_events_gather() -> None:
    world, naps = World(), Naps()
    await write(world.store, 1)
    async with running(world.relay(sleep=naps)) as _:
        await naps.fallen_asleep()
        await naps.next()
        assert naps.delays == [GATHER_S, OPTIONS.poll_interval_s]


async def test_a_failing_event_holds_up_its_own_order_only() -> None:
    world, naps = World(), Naps()
    stuck, other = await write(world.store, 1, versions=3), await write(world.store, 2)
    first, second = f"{stuck.id}/1", f"{stuck.id}/2"
    world.publisher.failing[second] = ValueError("this one cannot be encoded")
    with capture_logs() as logs:
        async with running(world.relay(sleep=naps)):
            await naps.fallen_asleep()
            assert naps.delays == [GATHER_S]
            assert set(world.publisher.ids) == {first, f"{other.id}/1", f"{other.id}/2"}
            assert isinstance(world.told[-1], EventPublished)
            assert [e.cause for e in world.told if isinstance(e, EventNotPublished)] == [
                world.publisher.failing[second]
            ]

            later = await write(world.store, 3)
            await naps.next()
            assert world.publisher.ids[3:] == [f"{later.id}/1", f"{later.id}/2"]

            world.publisher.failing.clear()
            world.clock.advance(timedelta(seconds=ORDER_BACKOFF_S))
            await naps.next()
            await naps.next()
    assert_each_once_and_in_order(world.publisher.ids, [stuck, other, later])
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_an_order_that_fails_backs_off_by_itself_and_pauses_no_other() -> None:
    world, naps = World(), Naps()
    stuck = await write(world.store, 1)
    world.publisher.failing[f"{stuck.id}/1"] = PublishFailed("not acknowledged")
    tries: list[float] = []

    def note_tries() -> None:
        failures = [event for event in world.told if isinstance(event, EventNotPublished)]
        if len(failures) > len(tries):
            tries.append(seconds)

    others = []
    with capture_logs() as logs:
        async with running(world.relay(sleep=naps)):
            await naps.fallen_asleep()
            for number in range(200):
                seconds = number * 0.5
                others.append(await write(world.store, 1000 + number))
                await naps.next()
                await naps.next()
                note_tries()
                assert world.publisher.ids[-1] == f"{others[-1].id}/2"
                world.clock.advance(timedelta(seconds=0.5))
    # The first try is the relay's only one, so that NATS may be away: one backoff of the relay.
    assert set(naps.delays) == {0.1, GATHER_S, OPTIONS.poll_interval_s}
    assert naps.delays.count(0.1) == 1
    assert tries == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5]
    assert [line["log_level"] for line in logs] == ["warning", "info"]


@pytest.mark.parametrize("error", [PublishFailed("timeout"), EventRefused("too large")])
async def test_orders_that_fail_at_the_front_of_the_outbox_do_not_fill_the_batch(
    error: Exception,
) -> None:
    world, naps = World(), Naps()
    for number in range(1, 51):
        failing = await write(world.store, number)
        world.publisher.failing[f"{failing.id}/1"] = error
    healthy = [await write(world.store, number) for number in range(51, 71)]
    async with running(world.relay(sleep=naps, options=RelayOptions(batch=5))):
        await naps.fallen_asleep()
        for _ in range(300):
            world.clock.advance(timedelta(seconds=naps.delays[-1]))
            await naps.next()
    assert_each_once_and_in_order(world.publisher.ids, healthy)


async def test_no_more_than_a_thousand_orders_back_off() -> None:
    world, naps = World(), Naps()
    for number in range(1, 1102):
        order = await write(world.store, number, versions=1)
        if number > 1:
            world.publisher.failing[f"{order.id}/1"] = PublishFailed("not acknowledged")
    async with running(world.relay(sleep=naps, options=RelayOptions(batch=2000))):
        await naps.fallen_asleep()
        assert world.publisher.attempts == 1101
        await naps.next()
        assert world.publisher.attempts == 1101 + 100


async def test_a_hanging_order_holds_up_no_other_and_goes_on_by_itself() -> None:
    world, naps = World(), Naps()
    hanging = await write(world.store, 1, versions=3)
    proceed = world.publisher.hanging[f"{hanging.id}/2"] = asyncio.Event()
    others = [await write(world.store, 2)]
    relay = world.relay(sleep=naps, options=RelayOptions(patience_s=0.01))
    async with running(relay):
        for number in range(3, 6):
            await naps.fallen_asleep()
            assert world.publisher.under_way == 1, "the hanging one is not published again"
            others.append(await write(world.store, number))
            await naps.next()
        await naps.next()
        assert_each_once_and_in_order(
            [each for each in world.publisher.ids if str(hanging.id) not in each], others
        )
        proceed.set()
        await until(lambda: f"{hanging.id}/3" in world.publisher.ids)
        # Its end wakes the relay, which writes it down.
        await naps.next()
        assert await world.all_marked()
    assert_each_once_and_in_order(world.publisher.ids, [hanging, *others])


async def test_no_more_than_a_batch_is_in_progress_however_many_hang() -> None:
    world, naps = World(), Naps()
    world.publisher.open.clear()
    orders = [await write(world.store, number, versions=1) for number in range(1, 31)]
    options = RelayOptions(batch=10, patience_s=0.01)
    async with running(world.relay(sleep=naps, options=options)):
        await naps.fallen_asleep()
        for _ in range(3):
            await naps.next()
        assert world.publisher.under_way == 10
        world.publisher.open.set()
        await until(lambda: len(world.publisher.ids) >= 10)
        await naps.next()
        await naps.next()
    assert world.publisher.most_under_way == 10
    assert_each_once_and_in_order(world.publisher.ids, orders)


async def test_what_hangs_is_cancelled_when_another_relay_leads() -> None:
    world, naps = World(), Naps()
    world.publisher.open.clear()
    await write(world.store, 1)
    async with running(world.relay(sleep=naps, options=RelayOptions(patience_s=0.01))):
        await naps.fallen_asleep()
        assert world.publisher.under_way == 1
        world.clock.advance(timedelta(seconds=OPTIONS.lease_s))
        assert await world.store.take_lease(LEASE, holder="other", lease=LONGEST_LEASE)
        await naps.next()
        assert world.publisher.under_way == 0


async def test_stop_waits_for_what_hangs_and_marks_it() -> None:
    world, naps = World(), Naps()
    world.publisher.open.clear()
    order = await write(world.store, 1, versions=1)
    relay = world.relay(sleep=naps, options=RelayOptions(patience_s=0.01))
    async with running(relay) as task:
        await naps.fallen_asleep()
        stopping = asyncio.create_task(relay.stop(timeout_s=5))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not stopping.done()
        world.publisher.open.set()
        await stopping
        await task
    assert_each_once_and_in_order(world.publisher.ids, [order])
    assert await world.all_marked()


# Refused events


async def refused_among_others(world: World) -> tuple[Order, list[Order]]:
    """Write an order whose second version is refused, and others around it."""
    before = await write(world.store, 1)
    poisoned = await write(world.store, 2, versions=3)
    after = await write(world.store, 3)
    world.publisher.failing[f"{poisoned.id}/2"] = EventRefused("too\nlarge\ud800" + 1000 * "!")
    return poisoned, [before, after]


async def test_a_refused_event_is_set_aside_and_the_others_are_published_without_a_pause() -> None:
    world, naps = World(), Naps()
    poisoned, others = await refused_among_others(world)
    with capture_logs() as logs:
        async with running(world.relay(sleep=naps)):
            await naps.fallen_asleep()
            assert naps.delays == [GATHER_S]
            assert set(world.publisher.ids) == {
                f"{poisoned.id}/1",
                *(f"{order.id}/{version}" for order in others for version in (1, 2)),
            }
            [refused] = await world.store.refused(limit=10)
            assert (refused.order_id, refused.version) == (poisoned.id, 2)
            assert refused.reason == ("too\ufffdlarge\ufffd" + 1000 * "!")[:500]
            assert await world.all_marked()

            others.append(await write(world.store, 4))
            await naps.next()
    assert GATHER_S in naps.delays[1:]
    assert set(naps.delays) <= {GATHER_S, OPTIONS.poll_interval_s}
    assert world.publisher.ids[-2:] == [f"{others[-1].id}/1", f"{others[-1].id}/2"]
    set_aside = [event.event for event in world.told if isinstance(event, EventSetAside)]
    assert [event_id(event.order) for event in set_aside] == [f"{poisoned.id}/2"]
    assert not [event for event in world.told if isinstance(event, EventNotPublished)]
    [line] = logs
    assert (line["log_level"], line["reason"]) == ("error", refused.reason)
    assert (line["order_id"], line["version"]) == (str(poisoned.id), 2)


async def test_a_refused_event_that_is_retried_is_published_with_those_behind_it() -> None:
    world, naps = World(), Naps()
    poisoned, others = await refused_among_others(world)
    async with running(world.relay(sleep=naps)):
        await naps.fallen_asleep()
        world.publisher.failing.clear()
        await world.store.retry_refused()
        await naps.next()
    assert_each_once_and_in_order(world.publisher.ids, [poisoned, *others])


async def test_behind_a_refused_event_that_is_skipped_the_later_ones_are_published() -> None:
    world, naps = World(), Naps()
    poisoned, _ = await refused_among_others(world)
    async with running(world.relay(sleep=naps)):
        await naps.fallen_asleep()
        [refused] = await world.store.refused(limit=10)
        await world.store.skip_refused([refused.sequence])
        await naps.next()
    seen = [each for each in world.publisher.ids if str(poisoned.id) in each]
    assert seen == [f"{poisoned.id}/1", f"{poisoned.id}/3"]


async def test_an_event_whose_refusal_cannot_be_stored_is_tried_again() -> None:
    world, naps = World(), Naps()
    poisoned, others = await refused_among_others(world)
    failures = [StoreUnavailable("down")]

    async def fail_once(point: Point) -> None:
        if point.method == "refuse" and failures:
            raise failures.pop()

    outbox = SteppedOutbox(world.store, fail_once)
    async with running(world.relay(sleep=naps, outbox=outbox)):
        await naps.fallen_asleep()
        assert naps.delays == [0.1]
        assert not [event for event in world.told if isinstance(event, EventSetAside)]
        await naps.next()
        assert len(await world.store.refused(limit=10)) == 1
        world.publisher.failing.clear()
        await world.store.retry_refused()
        await naps.next()
    assert_each_once_and_in_order(first_arrivals(world.publisher.arrived), [poisoned, *others])


# Recovery


async def test_after_an_outage_the_rate_of_events_grows_slowly() -> None:
    world, naps = World(), Naps()
    for number in range(1, 1001):
        await write(world.store, number, versions=1)
    world.publisher.unready = [PublishFailed("no NATS") for _ in range(3)]
    async with running(world.relay(sleep=naps)):
        for delay_s in (0.1, 0.2, 0.4):
            await naps.fallen_asleep()
            assert naps.delays[-1] == delay_s
            await naps.next()
        published = [len(world.publisher.ids)]
        for _ in range(3):
            second_ends = world.clock() + timedelta(seconds=1)
            while world.clock() < second_ends:
                world.clock.advance(timedelta(seconds=max(naps.delays[-1], 0.001)))
                await naps.next()
            published.append(len(world.publisher.ids))
        rates = [after - before for before, after in pairwise(published)]
        assert published[0] <= 20, "the batch that found NATS back, and the first of the ramp"
        assert rates[0] <= 115
        assert rates == sorted(rates)
        while not await world.all_marked():
            world.clock.advance(timedelta(seconds=max(naps.delays[-1], 0.001)))
            await naps.next()
    assert len(world.publisher.ids) == 1000


async def test_while_it_cannot_publish_it_tries_ever_less_often_and_says_so_once() -> None:
    world, naps = World(), Naps()
    order = await write(world.store, 1)
    world.publisher.unready = [PublishFailed("no NATS") for _ in range(8)]
    with capture_logs() as logs:
        async with running(world.relay(sleep=naps)) as _:
            for _ in range(8):
                await naps.next()
            assert naps.delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, GATHER_S]
    assert_each_once_and_in_order(world.publisher.ids, [order])
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert logs[1]["failures"] == 8


async def test_a_wake_does_not_hurry_what_fails() -> None:
    world, naps = World(), Naps()
    world.publisher.unready = [PublishFailed("no NATS") for _ in range(8)]
    relay = world.relay(sleep=naps)
    async with running(relay):
        await naps.fallen_asleep()
        for _ in range(20):
            relay.wake()
            await asyncio.sleep(0)
        assert len(world.publisher.unready) == 7


@pytest.mark.parametrize("error", [StoreUnavailable("down"), ValueError("a defect")])
@pytest.mark.parametrize("method", ["take_lease", "unpublished", "mark_published"])
async def test_no_failure_of_the_outbox_ends_it(method: str, error: Exception) -> None:
    world, naps = World(), Naps()
    order = await write(world.store, 1)
    failures = [error]

    async def fail_once(point: Point) -> None:
        if point.method == method and failures:
            raise failures.pop()

    outbox = SteppedOutbox(world.store, fail_once)
    async with running(world.relay(sleep=naps, outbox=outbox)):
        await naps.fallen_asleep()
        await naps.next()
    assert_each_once_and_in_order(first_arrivals(world.publisher.arrived), [order])
    assert await world.all_marked()


async def test_a_wake_ends_the_rest_of_the_leader() -> None:
    world, naps = World(), Naps()
    relay = world.relay(sleep=naps)
    async with running(relay):
        await naps.fallen_asleep()
        order = await write(world.store, 1)
        relay.wake()
        await until(lambda: len(world.publisher.ids) == order.version)


async def test_a_wake_ends_one_rest_and_not_the_next() -> None:
    world, naps = World(), Naps()
    relay = world.relay(sleep=naps)
    async with running(relay):
        await naps.fallen_asleep()
        relay.wake()
        for _ in range(50):
            await asyncio.sleep(0)
    assert naps.delays == [OPTIONS.poll_interval_s] * 2


async def test_a_wake_while_the_outbox_is_read_is_not_missed() -> None:
    world, naps = World(), Naps()
    relay: OutboxRelay

    async def write_then_wake(point: Point) -> None:
        # The event is written when the outbox has been read, but nobody knows that yet.
        if point.method == "unpublished" and point.done and not orders:
            orders.append(await write(world.store, 1))
            relay.wake()

    orders: list[object] = []
    relay = world.relay(sleep=naps, outbox=SteppedOutbox(world.store, write_then_wake))
    async with running(relay):
        await until(lambda: len(world.publisher.ids) == 2)


async def test_of_two_relays_one_publishes_and_a_wake_is_no_reason_for_the_other_to_ask() -> None:
    world, leader_naps, naps = World(), Naps(), Naps()
    asked: list[Point] = []

    async def remember(point: Point) -> None:
        if not point.done:
            asked.append(point)

    other = world.relay("two", sleep=naps, outbox=SteppedOutbox(world.store, remember))
    async with running(world.relay("one", sleep=leader_naps)):
        await leader_naps.fallen_asleep()
        async with running(other):
            await naps.fallen_asleep()
            await write(world.store, 1)
            for _ in range(20):
                other.wake()
                await asyncio.sleep(0)
            assert [point.method for point in asked] == ["take_lease"]
            assert naps.delays == [OPTIONS.lease_s / 2]
    assert world.publisher.ids == []


async def test_the_lease_of_a_dead_relay_ends_and_another_takes_over() -> None:
    world, naps = World(), Naps()
    dead = world.relay("dead", sleep=Naps())
    async with running(dead):
        await until(lambda: world.told == [LeadChanged(leads=True)])
    async with running(world.relay("alive", sleep=naps)):
        order = await write(world.store, 1)
        await naps.fallen_asleep()
        world.clock.advance(timedelta(seconds=OPTIONS.lease_s - 0.001))
        await naps.next()
        assert world.publisher.ids == []

        world.clock.advance(timedelta(seconds=0.001))
        await naps.next()
    assert_each_once_and_in_order(world.publisher.ids, [order])


async def test_a_leader_renews_its_lease_when_half_of_it_has_passed() -> None:
    world, naps = World(), Naps()
    taken: list[Point] = []

    async def remember(point: Point) -> None:
        if point.method == "take_lease" and point.done:
            taken.append(point)

    async with running(world.relay(sleep=naps, outbox=SteppedOutbox(world.store, remember))):
        await naps.fallen_asleep()
        world.clock.advance(timedelta(seconds=OPTIONS.lease_s / 2))
        await naps.next()
        assert len(taken) == 1
        world.clock.advance(timedelta(seconds=0.001))
        await naps.next()
        assert len(taken) == 2
    assert not await world.store.take_lease(LEASE, holder="other", lease=timedelta(0))


async def test_a_leader_that_has_lost_its_lease_publishes_no_more() -> None:
    world, naps = World(), Naps()
    async with running(world.relay(sleep=naps)):
        await naps.fallen_asleep()
        world.clock.advance(timedelta(seconds=OPTIONS.lease_s))
        assert await world.store.take_lease(LEASE, holder="other", lease=LONGEST_LEASE)
        await write(world.store, 1)
        await naps.next()
    assert world.publisher.ids == []
    assert world.told == [LeadChanged(leads=True), LeadChanged(leads=False)]


async def test_a_lease_is_counted_from_before_the_store_was_asked() -> None:
    world, naps = World(), Naps()
    taken = 0

    async def answer_late(point: Point) -> None:
        nonlocal taken
        if point.method == "take_lease" and point.done:
            taken += 1
            world.clock.advance(timedelta(seconds=OPTIONS.lease_s / 2 + 0.001))

    async with running(world.relay(sleep=naps, outbox=SteppedOutbox(world.store, answer_late))):
        await naps.fallen_asleep()
        assert taken == 1
        await naps.next()
        assert taken == 2, "half of the lease had passed before the answer came"


async def test_a_wall_clock_that_jumps_moves_no_lead() -> None:
    """The relay's own time does not pass with the clock of the store, nor with any other."""
    world, naps = World(), Naps()
    relay = OutboxRelay(
        outbox=world.store,
        publisher=world.publisher,
        holder="one",
        options=OPTIONS,
        listener=world.told.append,
        clock=lambda: 1000.0,
        sleep=naps,
    )
    async with running(relay):
        await naps.fallen_asleep()
        for jump in (timedelta(days=1), timedelta(days=-2)):
            world.clock.advance(jump)
            await write(world.store, 1 if jump > timedelta(0) else 2)
            await naps.next()
    assert world.told.count(LeadChanged(leads=True)) == 1
    assert LeadChanged(leads=False) not in world.told
    assert len(world.publisher.ids) == 4


async def test_who_has_no_way_to_publish_lets_another_try() -> None:
    world, naps = World(), Naps()
    order = await write(world.store, 1)
    cut_off = FakePublisher()
    cut_off.unready = [PublishFailed("no way to NATS")]
    async with running(world.relay("cut off", sleep=naps, publisher=cut_off)):
        await naps.fallen_asleep()
        others = Naps()
        async with running(world.relay("other", sleep=others)):
            await others.fallen_asleep()
    assert_each_once_and_in_order(world.publisher.ids, [order])


async def test_what_is_not_acknowledged_within_the_lease_is_left_to_who_has_the_next() -> None:
    world, naps = World(), Naps()
    order = await write(world.store, 1)
    world.publisher.open.clear()
    options = RelayOptions(lease_s=0.05)
    with capture_logs() as logs:
        async with running(world.relay(sleep=naps, options=options)):
            await naps.fallen_asleep()
            assert world.publisher.under_way == 0
            assert naps.delays == [0.1]

            world.publisher.open.set()
            world.clock.advance(timedelta(seconds=ORDER_BACKOFF_S))
            await naps.next()
    assert_each_once_and_in_order(world.publisher.ids, [order])
    assert isinstance(logs[0]["exc_info"].__cause__, TimeoutError)


async def test_stop_finishes_what_is_under_way_and_gives_up_the_lease() -> None:
    world, naps = World(), Naps()
    order = await write(world.store, 1)
    world.publisher.open.clear()
    relay = world.relay(sleep=naps)
    async with running(relay) as task:
        await until(lambda: world.publisher.under_way)
        stopping = asyncio.create_task(relay.stop(timeout_s=5))
        await asyncio.sleep(0)
        assert not stopping.done()
        world.publisher.open.set()
        await stopping
        await task

    assert_each_once_and_in_order(world.publisher.ids, [order])
    assert await world.all_marked()
    assert await world.store.take_lease(LEASE, holder="other", lease=timedelta(0))


@pytest.mark.parametrize("trouble", ["none", "publisher", "another leads"])
async def test_stop_ends_every_rest_at_once(trouble: str) -> None:
    world, naps = World(), Naps()
    if trouble == "publisher":
        world.publisher.unready = [PublishFailed("no NATS")]
    if trouble == "another leads":
        await world.store.take_lease(LEASE, holder="o", lease=LONGEST_LEASE)
    relay = world.relay(sleep=naps)
    async with running(relay) as task:
        await naps.fallen_asleep()
        await relay.stop(timeout_s=5)
        await task


async def test_stop_does_not_wait_for_ever() -> None:
    world = World()
    await write(world.store, 1)
    world.publisher.open.clear()
    relay = world.relay()
    with capture_logs() as logs:
        async with running(relay):
            await until(lambda: world.publisher.under_way)
            await relay.stop(timeout_s=0.01)
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_a_lease_that_cannot_be_given_up_at_the_end_is_only_logged() -> None:
    world, naps = World(), Naps()

    async def fail(point: Point) -> None:
        if point.method == "give_up_lease":
            raise StoreUnavailable("down")

    relay = world.relay(sleep=naps, outbox=SteppedOutbox(world.store, fail))
    with capture_logs() as logs:
        async with running(relay) as task:
            await naps.fallen_asleep()
            await relay.stop(timeout_s=5)
            await task
    assert [line["log_level"] for line in logs] == ["warning"]


async def test_stop_without_run_returns_at_once() -> None:
    await World().relay().stop(timeout_s=5)


async def test_cancelled_it_leaves_no_task_behind() -> None:
    world = World()
    await write(world.store, 1)
    world.publisher.open.clear()
    async with running(world.relay()) as task:
        await until(lambda: world.publisher.under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.publisher.under_way == 0
        assert tasks_left() == set()


async def test_cancelled_it_waits_until_no_publication_is_under_way() -> None:
    world = World()
    await write(world.store, 1)
    ended: list[Point] = []

    async def end_slowly(point: Point) -> None:
        if point.method == "publish":
            try:
                await asyncio.Event().wait()
            finally:
                for _ in range(5):
                    await asyncio.sleep(0)
                ended.append(point)

    publisher = SteppedPublisher(world.publisher, end_slowly)
    async with running(world.relay(publisher=publisher)) as task:
        await until(lambda: len(asyncio.all_tasks()) == 3)
        task.cancel()
        await asyncio.wait([task])
        assert len(ended) == 1


async def dies_at(death: int) -> int:
    """A relay dies at the point with that number, from 0, and another goes on.

    Returns how many points the first one passed.
    """
    world = World()
    orders = [await write(world.store, number, versions=3) for number in (1, 2)]
    points: list[Point] = []
    dead, naps = asyncio.Event(), Naps()

    async def die_in_turn(point: Point) -> None:
        points.append(point)
        if len(points) > death:
            dead.set()
            await asyncio.Event().wait()

    dying = world.relay(
        "dying",
        sleep=naps,
        outbox=SteppedOutbox(world.store, die_in_turn),
        publisher=SteppedPublisher(world.publisher, die_in_turn),
    )
    async with running(dying):
        await until(lambda: dead.is_set() or naps.delays)
    world.clock.advance(timedelta(seconds=OPTIONS.lease_s))
    others = Naps()
    async with running(world.relay("next", sleep=others)):
        await others.fallen_asleep()
    assert_each_once_and_in_order(first_arrivals(world.publisher.arrived), orders)
    assert await world.all_marked()
    assert tasks_left() == set()
    return len(points)


async def test_wherever_a_relay_dies_its_successor_publishes_the_rest() -> None:
    """Every call has two points: before it is done, and when it is done and nobody knows yet."""
    death = 0
    while await dies_at(death) > death:
        death += 1
    # take_lease, prepare, unpublished, mark_published, and publish for each of 6 events.
    assert death == 2 * (4 + 6)


async def test_a_relay_that_slept_through_its_lease_does_no_harm() -> None:
    """Two publish at once, and first arrivals are in order all the same."""
    world = World()
    orders = [await write(world.store, number, versions=4) for number in range(1, 6)]
    slow, fast = FakePublisher(), FakePublisher()
    slow.arrived = fast.arrived = world.publisher.arrived
    slow.open.clear()
    async with running(world.relay("slow", publisher=slow)):
        await until(lambda: slow.under_way)
        world.clock.advance(timedelta(seconds=OPTIONS.lease_s))
        naps = Naps()
        async with running(world.relay("fast", publisher=fast, sleep=naps)):
            slow.open.set()
            await naps.fallen_asleep()
        await until(lambda: len(slow.arrived) > sum(order.version for order in orders))
    assert_each_once_and_in_order(first_arrivals(world.publisher.arrived), orders)


@pytest.mark.parametrize(
    ("name", "value"),
    [("batch", 0), ("poll_interval_s", 0.0), ("lease_s", -1.0), ("patience_s", 0.0)],
)
def test_an_option_out_of_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        RelayOptions(**{name: value})  # type: ignore[arg-type]  # one field by its name


async def test_an_event_is_named_by_order_and_version() -> None:
    order = await write(FakeOrderStore(), 1, versions=2)
    assert event_id(order) == f"{order_id(1)}/2"
