"""The relay over a real NATS that goes away: what a consumer sees that deduplicates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime

from msgspec import structs
from nats.js.api import StreamConfig

from fakes.events import SteppedOutbox, SteppedPublisher, assert_each_once_and_in_order, write
from fakes.naps import Naps
from fakes.nats import NatsServer
from fakes.steps import Point
from fakes.store import FakeOrderStore
from harness import until
from orderflow_client.event_stream import connect
from orderflow_client.events import order_events
from orderflow_server.events.nats_publisher import NatsPublisher, nats_publisher
from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventPublisher,
    RelayEvent,
    RelayListener,
)
from orderflow_server.events.relay import OutboxRelay, RelayOptions
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import Outbox
from orderflow_server.rpc.order_event import encode_order_event


class Consumer:
    """Reads the stream from its start and notes the ids of the events in `seen`."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.seen: list[str] = []

    async def read(self) -> None:
        async with aclosing(order_events([self._server.url], from_start=True)) as events:
            async for event in events:
                assert event.event_id == f"{event.order.id}/{event.order.version}"
                self.seen.append(event.event_id)

    async def has_all(self, orders: Sequence[Order]) -> None:
        expected = sum(order.version for order in orders)
        await until(lambda: len(self.seen) >= expected, timeout_s=20)
        assert_each_once_and_in_order(self.seen, orders)


@asynccontextmanager
async def consuming(server: NatsServer) -> AsyncIterator[Consumer]:
    consumer = Consumer(server)
    reading = asyncio.create_task(consumer.read())
    try:
        yield consumer
    finally:
        reading.cancel()
        await asyncio.wait([reading])


def relay(
    outbox: Outbox,
    publisher: EventPublisher,
    *,
    holder: str = "one",
    lease_s: float = 6.0,
    batch: int = 100,
    patience_s: float = 5.0,
    listener: RelayListener = lambda event: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> OutboxRelay:
    return OutboxRelay(
        outbox=outbox,
        publisher=publisher,
        holder=holder,
        options=RelayOptions(
            batch=batch, poll_interval_s=0.01, lease_s=lease_s, patience_s=patience_s
        ),
        listener=listener,
        sleep=sleep,
    )


@asynccontextmanager
async def running(*relays: OutboxRelay) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(relay.run()) for relay in relays]
    try:
        yield
    finally:
        for relay in relays:
            await relay.stop(timeout_s=5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def written(store: FakeOrderStore, numbers: range) -> list[Order]:
    return [await write(store, number, versions=number % 4 + 1) for number in numbers]


async def all_published(store: FakeOrderStore) -> None:
    async with asyncio.timeout(20):
        while await store.unpublished(limit=1):
            await asyncio.sleep(0.005)


async def test_a_consumer_sees_each_event_once_and_in_order_per_order(nats: NatsServer) -> None:
    store = FakeOrderStore(lambda: datetime.now(UTC))
    orders = await written(store, range(1, 301))
    async with (
        nats_publisher(nats.url, encode=encode_order_event) as publisher,
        running(relay(store, publisher)),
    ):
        await all_published(store)
        async with consuming(nats) as consumer:
            await consumer.has_all(orders)
            orders += await written(store, range(301, 401))
            await consumer.has_all(orders)


async def test_nats_may_be_down_at_the_start_and_go_away_in_between(nats: NatsServer) -> None:
    store = FakeOrderStore(lambda: datetime.now(UTC))
    await nats.stop()
    orders = await written(store, range(1, 101))
    failures: list[RelayEvent] = []

    def listen(event: RelayEvent) -> None:
        if isinstance(event, EventNotPublished):
            failures.append(event)

    publisher = NatsPublisher([nats.url], encode=encode_order_event, ack_timeout_s=0.3)
    publishes = 0

    async def go_away(point: Point) -> None:
        """Every 250th event finds that the server has just been killed."""
        nonlocal publishes
        if point.method == "prepare" and not point.done:
            tried.set()
        if point.method == "publish" and not point.done:
            publishes += 1
            if publishes % 250 == 0:
                await nats.stop()
                restarts.append(asyncio.create_task(nats.start()))

    tried = asyncio.Event()
    restarts: list[asyncio.Task[None]] = []
    stepped = SteppedPublisher(publisher, go_away)
    async with running(relay(store, stepped, listener=listen)):
        await tried.wait()
        await nats.start()
        await all_published(store)
        async with consuming(nats) as consumer:
            await consumer.has_all(orders)
            for first in (101, 201, 301):
                orders += await written(store, range(first, first + 100))
                await all_published(store)
            await consumer.has_all(orders)
    await asyncio.gather(*restarts)
    await publisher.close()
    assert len(restarts) >= 3
    assert failures


async def test_wherever_a_relay_dies_the_consumer_sees_every_event_once(nats: NatsServer) -> None:
    store = FakeOrderStore(lambda: datetime.now(UTC))
    orders: list[Order] = []
    death = 0
    while True:
        orders.append(await write(store, death + 1, versions=3))
        points = await _dies_at(death, store, nats)
        async with (
            nats_publisher(nats.url, encode=encode_order_event) as publisher,
            running(relay(store, publisher)),
        ):
            await all_published(store)
        if points <= death:
            break
        death += 1
    # take_lease, prepare, unpublished, mark_published, and publish for each of 3 events.
    assert death == 2 * (4 + 3)
    async with consuming(nats) as consumer:
        await consumer.has_all(orders)


async def _dies_at(death: int, store: FakeOrderStore, server: NatsServer) -> int:
    """A relay dies at the point with that number; returns how many it passed."""
    points: list[Point] = []
    dead, naps = asyncio.Event(), Naps()

    async def die_in_turn(point: Point) -> None:
        points.append(point)
        if len(points) > death:
            dead.set()
            await asyncio.Event().wait()

    async with nats_publisher(server.url, encode=encode_order_event) as publisher:
        dying = relay(
            SteppedOutbox(store, die_in_turn), SteppedPublisher(publisher, die_in_turn), sleep=naps
        )
        task = asyncio.create_task(dying.run())
        await until(lambda: dead.is_set() or naps.delays)
        task.cancel()
        await asyncio.wait([task])
    return len(points)


async def test_of_two_relays_one_publishes_until_it_is_gone(nats: NatsServer) -> None:
    store = FakeOrderStore(lambda: datetime.now(UTC))
    first_told: list[RelayEvent] = []
    second_told: list[RelayEvent] = []
    async with (
        nats_publisher(nats.url, encode=encode_order_event) as one,
        nats_publisher(nats.url, encode=encode_order_event) as two,
    ):
        first = relay(store, one, holder="one", listener=first_told.append, lease_s=0.5)
        second = relay(store, two, holder="two", listener=second_told.append, lease_s=0.5)
        dying = asyncio.create_task(first.run())
        await until(lambda: first_told)
        async with running(second):
            orders = await written(store, range(1, 51))
            await all_published(store)
            assert second_told == []
            dying.cancel()
            await asyncio.wait([dying])

            orders += await written(store, range(51, 101))
            await all_published(store)
        assert any(isinstance(event, EventPublished) for event in second_told)
    async with consuming(nats) as consumer:
        await consumer.has_all(orders)


async def test_an_event_larger_than_the_stream_takes_holds_up_its_own_order_only(
    nats: NatsServer,
) -> None:
    store, naps = FakeOrderStore(), Naps()
    before = await written(store, range(1, 51))
    poisoned = [await write(store, number, versions=4) for number in (51, 52)]
    after = await written(store, range(53, 103))
    others = [*before, *after]
    too_large = {f"{order.id}/2" for order in poisoned}

    def encode(identity: str, order: Order) -> bytes:
        return encode_order_event(identity, order) + bytes(5000 * (identity in too_large))

    config = StreamConfig(name="ORDERS", subjects=["orders.>"], max_msg_size=3000)
    client = await connect([nats.url], name="operator", reconnect=False)
    stream = client.jetstream()
    await stream.add_stream(config)
    consumer = await stream.pull_subscribe("orders.>", stream="ORDERS")

    async def arrived() -> list[str]:
        """The ids of events that arrived since the last call."""
        count = (await consumer.consumer_info()).num_pending
        messages = await consumer.fetch(count) if count else []
        return [(message.headers or {})["ce-id"] for message in messages]

    failures: list[RelayEvent] = []

    def listen(event: RelayEvent) -> None:
        if isinstance(event, EventNotPublished):
            failures.append(event)

    async with nats_publisher(nats.url, encode=encode) as publisher:
        one = relay(store, publisher, sleep=naps, listener=listen, batch=1000)
        async with running(one):
            await naps.fallen_asleep()
            # One turn, one rest after it.
            assert len(naps.delays) == 1
            firsts = [structs.replace(order, version=1) for order in poisoned]
            assert_each_once_and_in_order(await arrived(), [*others, *firsts])
            refused = await store.refused(limit=10)
            assert [(event.order_id, event.version) for event in refused] == [
                (order.id, 2) for order in poisoned
            ]

            config.max_msg_size = 10_000
            await stream.update_stream(config)
            retried, skipped = refused
            await store.retry_refused([retried.sequence])
            await store.skip_refused([skipped.sequence])
            await naps.next()
            assert sorted(await arrived()) == [
                *(f"{retried.order_id}/{version}" for version in (2, 3, 4)),
                *(f"{skipped.order_id}/{version}" for version in (3, 4)),
            ]
    await client.close()
    assert failures == []
