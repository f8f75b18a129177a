"""What replicas hear of each other's changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest

from fakes.orders import LEASE_FOR, NOW, new_order, order_id
from fakes.postgres import TestDatabases
from harness import until
from orderflow_server.events.changes import ChangeHub
from orderflow_server.orders.errors import StoreUnavailable, VersionConflict
from orderflow_server.orders.order import Order
from orderflow_server.orders.watching import watch_order
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import Command, LeaseDue, Place, Save
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect
from orderflow_server.storage.postgres import listening as listening_module
from orderflow_server.storage.postgres.listening import listen
from orderflow_server.storage.postgres.notices import CHANNEL, notices, order_ids_in
from orderflow_server.storage.store import EngineOrderStore

Stores = tuple[EngineOrderStore, EngineOrderStore, EngineOrderStore]


class Ear:
    """What was heard."""

    def __init__(self) -> None:
        self.changed: list[UUID] = []
        self.gaps = 0

    def on_change(self, order_ids: Iterable[UUID]) -> None:
        self.changed += order_ids

    def on_gap(self) -> None:
        self.gaps += 1


@asynccontextmanager
async def listening(store: EngineOrderStore | PostgresDialect) -> AsyncIterator[Ear]:
    """Heard from the moment that this yields."""
    ear = Ear()
    task = asyncio.create_task(store.listen(ear.on_change, ear.on_gap))
    await until(lambda: ear.gaps)
    yield ear
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("count", [0, 1, 239, 240, 241, 1000])
def test_a_notice_is_as_long_as_postgresql_allows(count: int) -> None:
    ids = [order_id(number) for number in range(count)]
    texts = notices(ids)
    assert all(0 < len(text) < 8000 for text in texts)
    assert [found for text in texts for found in order_ids_in(text)] == ids


async def test_each_process_hears_of_changes_by_all(stores: Stores) -> None:
    async with listening(stores[0]) as first, listening(stores[1]) as second:
        placed = await stores[2].place(new_order(1), lease=LEASE_FOR)
        await stores[2].place(new_order(2), lease=LEASE_FOR)
        await stores[1].save(placed.paid(NOW))
        expected = [new_order(n).id for n in (1, 2, 1)]
        await until(lambda: first.changed == second.changed == expected)
        assert (first.gaps, second.gaps) == (1, 1)


async def test_large_batches_are_heard_whole(dialect: PostgresDialect) -> None:
    orders = [new_order(number) for number in range(600)]
    async with listening(dialect) as ear:
        await dialect.write([Place(order, LEASE_FOR) for order in orders])
        await until(lambda: len(ear.changed) == 600, timeout_s=30)
        await dialect.write([Save(order.paid(NOW), None) for order in orders])
        await until(lambda: len(ear.changed) == 1200, timeout_s=30)
        assert sorted(ear.changed) == sorted([order.id for order in orders] * 2)


async def test_a_change_is_heard_of_only_when_it_can_be_read(dialect: PostgresDialect) -> None:
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    batch: list[Command[Any]] = [
        Place(new_order(2), LEASE_FOR),
        Save(new_order(1).paid(NOW), None),
        LeaseDue(LEASE_FOR, 2**63),  # cannot be written, nor can the others with it
    ]
    async with listening(dialect) as ear:
        with pytest.raises(Exception):  # noqa: B017 - whichever: nothing was written
            await dialect.write(batch)
        await dialect.write([Place(new_order(3), LEASE_FOR)])
        await until(lambda: ear.changed == [new_order(3).id])


class Watcher(Ear):
    """Reads again whatever may have changed, and knows how many versions of it there are."""

    def __init__(self, store: EngineOrderStore, everything: Sequence[UUID]) -> None:
        super().__init__()
        self.versions: dict[UUID, int] = {}
        self._store = store
        self._everything = everything

    def on_gap(self) -> None:
        super().on_gap()
        self.changed += self._everything

    async def watch(self) -> None:
        while True:
            while self.changed:
                order_id = self.changed[-1]
                with contextlib.suppress(StoreUnavailable):
                    changes = await self._store.changes(order_id, after_version=0)
                    self.versions[order_id] = len(changes)
                    self.changed.remove(order_id)
            await asyncio.sleep(0.001)


async def test_a_connection_that_is_lost_as_soon_as_it_listens_is_replaced_at_once(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No sign of life is asked for in the time of this test.
    monkeypatch.setattr(listening_module, "_PROBE_INTERVAL_S", 3600.0)
    connections: list[asyncpg.Connection] = []
    gaps = 0

    async def connect() -> asyncpg.Connection:
        connections.append(await asyncpg.connect(url))
        return connections[-1]

    async def alive(_: asyncpg.Connection) -> bool:
        return True

    def on_gap() -> None:
        nonlocal gaps
        gaps += 1
        if gaps == 1:
            connections[0].terminate()

    task = asyncio.create_task(listen(connect, lambda _: None, on_gap, check=alive))
    await until(lambda: gaps == 2)
    task.cancel()
    await asyncio.wait([task])


async def insist(write: Callable[[], Awaitable[object]]) -> None:
    """Repeats until it is written."""
    while True:
        with contextlib.suppress(StoreUnavailable):
            await write()
            return
        await asyncio.sleep(0.01)


async def test_nothing_is_missed_while_the_connection_is_lost_again_and_again(
    stores: Stores, postgres: TestDatabases, url: str
) -> None:
    """Who reads all again at a gap has seen the last version of each order."""
    orders = [new_order(number) for number in range(200)]
    watcher = Watcher(stores[0], [order.id for order in orders])

    written = 0

    def has_written(count: int) -> bool:
        return written >= count

    async def write() -> None:
        nonlocal written
        for number, order in enumerate(orders):
            written = number
            store = stores[1 + number % 2]
            await insist(partial(store.place, order, lease=LEASE_FOR))
            # When the answer is lost, the next attempt finds it written.
            with contextlib.suppress(VersionConflict):
                await insist(partial(store.save, order.paid(NOW)))

    tasks = [
        asyncio.create_task(stores[0].listen(watcher.on_change, watcher.on_gap)),
        asyncio.create_task(watcher.watch()),
    ]
    await until(lambda: watcher.gaps)
    writing = asyncio.create_task(write())
    for some in range(20, len(orders), 20):
        # By what was written, not by time: on a busy machine nothing might be, in between.
        await until(partial(has_written, some), timeout_s=30)
        await postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
            urlsplit(url).path.removeprefix("/"),
        )
    await writing

    def has_seen_all() -> bool:
        for task in tasks:
            if task.done():
                task.result()  # raises why it has ended
        return watcher.versions == {order.id: 2 for order in orders}

    # All are read again after each gap.
    await until(has_seen_all, timeout_s=30)
    assert watcher.gaps > 1
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_watchers_that_are_slow_cost_one_signal_each_and_miss_nothing(stores: Stores) -> None:
    hub = ChangeHub()
    order = await stores[1].place(new_order(1), lease=LEASE_FOR)
    listening_for_all = asyncio.create_task(stores[0].listen(hub.publish, hub.publish_all))
    slow = [watch_order(order.id, store=stores[0], feed=hub) for _ in range(50)]
    attentive = watch_order(order.id, store=stores[0], feed=hub)
    for watch in (*slow, attentive):
        assert await anext(watch) == order

    versions = [order]
    for number, change in enumerate((Order.paid, Order.refunding, Order.cancelled)):
        version = change(versions[-1], NOW)
        lease = LEASE_FOR if version.state.awaits_gateway else None
        await stores[1 + number % 2].save(version, lease=lease)
        versions.append(version)
        assert await asyncio.wait_for(anext(attentive), 5) == versions[-1]

    assert hub.watchers == len(slow) + 1
    for watch in slow:
        assert [seen async for seen in watch] == versions[1:]
    listening_for_all.cancel()
    await asyncio.wait([listening_for_all])


async def test_what_others_say_on_the_channel_may_mean_anything(
    stores: Stores, connection: asyncpg.Connection
) -> None:
    async with listening(stores[0]) as ear:
        await connection.execute("SELECT pg_notify($1, 'hello')", CHANNEL)
        await until(lambda: ear.gaps == 2)
        await stores[1].place(new_order(1), lease=LEASE_FOR)
        await until(lambda: ear.changed == [new_order(1).id])


async def test_a_file_has_nobody_to_listen_to(tmp_path: Any) -> None:
    ear = Ear()
    async with open_store_for(DatabaseAddress(path=tmp_path / "orders.db")) as store:
        await store.listen(ear.on_change, ear.on_gap)
    assert (ear.changed, ear.gaps) == ([], 0)
