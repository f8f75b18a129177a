"""Watching: every version once and in order, however the signals come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.process import until
from fakes.steps import Point, SteppedStore
from fakes.store import FakeOrderStore
from orderflow_server.events.changes import ChangeHub
from orderflow_server.orders.errors import FeedClosed, OrderNotFound
from orderflow_server.orders.order import Order
from orderflow_server.orders.watching import watch_order

PLACED = new_order()
PAID = PLACED.paid(NOW)
REFUNDING = PAID.refunding(NOW)
CANCELLED = REFUNDING.cancelled(NOW)
ALL = [PLACED, PAID, REFUNDING, CANCELLED]


class Shop:
    """A store and the hub that tells of its writes, unless it is told to keep quiet."""

    def __init__(self) -> None:
        self.store = FakeOrderStore()
        self.hub = ChangeHub()

    async def write(self, *orders: Order, signals: int = 1) -> None:
        for order in orders:
            lease = LEASE_FOR if order.state.awaits_gateway else None
            if order.version == 1:
                await self.store.place(order, lease=LEASE_FOR)
            else:
                await self.store.save(order, lease=lease)
            for _ in range(signals):
                self.hub.publish([order.id])

    def watch(self, order: Order = PLACED) -> AsyncGenerator[Order, None]:
        return watch_order(order.id, store=self.store, feed=self.hub)


@asynccontextmanager
async def collecting(watch: AsyncGenerator[Order, None]) -> AsyncIterator[list[Order]]:
    """Reads a watch to its end in a task of its own; `list` is what it has yielded so far."""
    seen: list[Order] = []

    async def collect() -> None:
        async for order in watch:
            seen.append(order)  # noqa: PERF401  a comprehension shows nothing until the end

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(collect())
        yield seen


async def test_it_tells_the_order_as_it_is_and_each_later_version_to_the_final_one() -> None:
    shop = Shop()
    await shop.write(PLACED)
    async with collecting(shop.watch()) as seen:
        await until(lambda: seen == ALL[:1])
        await shop.write(PAID)
        await until(lambda: seen == ALL[:2])
        await shop.write(REFUNDING)
        await until(lambda: seen == ALL[:3])
        await shop.write(CANCELLED)
    assert seen == ALL
    assert shop.hub.watchers == 0


async def test_it_begins_with_the_present_version_not_with_the_first() -> None:
    shop = Shop()
    await shop.write(PLACED, PAID, REFUNDING)
    async with collecting(shop.watch()) as seen:
        await until(lambda: seen == [REFUNDING])
        await shop.write(CANCELLED)
    assert seen == [REFUNDING, CANCELLED]


async def test_a_final_order_is_told_once() -> None:
    shop = Shop()
    await shop.write(*ALL)
    assert [order async for order in shop.watch()] == [CANCELLED]


async def test_several_changes_behind_one_signal_are_told_one_by_one() -> None:
    shop = Shop()
    await shop.write(PLACED)
    async with collecting(shop.watch()) as seen:
        await until(lambda: seen == [PLACED])
        # No turn of the loop in between: the signals are merged.
        await shop.write(PAID, REFUNDING, CANCELLED)
    assert seen == ALL


async def test_signals_that_come_twice_or_for_nothing_do_no_harm() -> None:
    shop = Shop()
    await shop.write(PLACED)
    async with collecting(shop.watch()) as seen:
        for order in ALL[1:]:
            for _ in range(3):
                shop.hub.publish([PLACED.id])
                await asyncio.sleep(0)
            await shop.write(order, signals=2)
    assert seen == ALL


async def test_a_slow_watcher_reads_each_version_once() -> None:
    shop = Shop()
    await shop.write(PLACED)
    watch = shop.watch()
    assert await anext(watch) == PLACED
    await shop.write(PAID)
    assert await anext(watch) == PAID
    # Both are written while the watcher is busy with what it got.
    await shop.write(REFUNDING, CANCELLED)
    assert [order async for order in watch] == [REFUNDING, CANCELLED]


@pytest.mark.parametrize(
    ("done", "expected"), [(False, ALL[1:]), (True, ALL)], ids=["before", "after"]
)
async def test_a_change_beside_the_first_read_is_not_missed(
    done: bool, expected: list[Order]
) -> None:
    shop = Shop()
    await shop.write(PLACED)

    async def write_paid(point: Point) -> None:
        if (point.method, point.done) == ("get", done):
            await shop.write(PAID)

    watch = watch_order(PLACED.id, store=SteppedStore(shop.store, write_paid), feed=shop.hub)
    async with collecting(watch) as seen:
        await until(lambda: seen[-1:] == [PAID])
        await shop.write(REFUNDING, CANCELLED)
    assert seen == expected


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_change_beside_a_later_read_is_not_missed(done: bool) -> None:
    shop = Shop()
    await shop.write(PLACED)
    due = ALL[1:]

    async def write_next(point: Point) -> None:
        if (point.method, point.done) == ("changes", done) and due:
            await shop.write(due.pop(0))

    watch = watch_order(PLACED.id, store=SteppedStore(shop.store, write_next), feed=shop.hub)
    async with collecting(watch) as seen:
        await until(lambda: seen == [PLACED])
        shop.hub.publish([PLACED.id])
    assert seen == ALL


async def test_the_other_orders_changes_are_not_its_own() -> None:
    shop = Shop()
    other = new_order(2)
    await shop.write(PLACED, other)
    async with collecting(shop.watch()) as seen:
        await shop.write(other.paid(NOW))
        await shop.write(*ALL[1:])
    assert {order.id for order in seen} == {PLACED.id}


async def test_many_watchers_each_see_all() -> None:
    shop = Shop()
    await shop.write(PLACED)
    async with collecting(shop.watch()) as one, collecting(shop.watch()) as two:
        await until(lambda: one == two == [PLACED])
        for order in ALL[1:]:
            await shop.write(order)
            await asyncio.sleep(0)
    assert one == two == ALL


async def test_without_an_order_there_is_nothing_to_watch() -> None:
    shop = Shop()
    with pytest.raises(OrderNotFound):
        await anext(shop.watch())
    assert shop.hub.watchers == 0


async def test_when_the_feed_closes_the_watcher_is_told_so() -> None:
    shop = Shop()
    await shop.write(PLACED)
    watch = shop.watch()
    assert await anext(watch) == PLACED
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    shop.hub.close()

    with pytest.raises(FeedClosed):
        await waiting
    assert shop.hub.watchers == 0


async def test_with_the_feed_closed_the_present_version_is_told_and_no_more() -> None:
    shop = Shop()
    await shop.write(PLACED)
    shop.hub.close()
    watch = shop.watch()
    assert await anext(watch) == PLACED
    with pytest.raises(FeedClosed):
        await anext(watch)


@pytest.mark.parametrize("yielded", [1, 2])
async def test_a_watch_that_is_closed_leaves_no_subscription(yielded: int) -> None:
    shop = Shop()
    await shop.write(PLACED)
    watch = shop.watch()
    await anext(watch)
    if yielded == 2:
        await shop.write(PAID)
        await anext(watch)
    assert shop.hub.watchers == 1

    await watch.aclose()
    assert shop.hub.watchers == 0


async def test_a_cancelled_watcher_leaves_no_subscription() -> None:
    shop = Shop()
    await shop.write(PLACED)
    watch = shop.watch()
    await anext(watch)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert shop.hub.watchers == 0


async def test_a_watch_that_never_began_subscribes_to_nothing() -> None:
    shop = Shop()
    watch = shop.watch()
    assert shop.hub.watchers == 0
    await watch.aclose()
