"""PostgreSQL fails, or the way to it does, or time runs out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import pytest

from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.postgres import TestDatabases, postgres_process
from fakes.tcp_proxy import TcpProxy
from harness import until
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import (
    DeadlineExpired,
    OrderNotFound,
    StoreUnavailable,
    VersionConflict,
)
from orderflow_server.orders.order import Order, OrderQuery
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import Place, Save
from orderflow_server.storage.engine import EngineOptions
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect, PostgresOptions
from orderflow_server.storage.store import EngineOrderStore, open_store

HASTE = PostgresOptions(statement_timeout_s=0.3)
Stores = tuple[EngineOrderStore, EngineOrderStore, EngineOrderStore]


@pytest.fixture
async def store(url: str) -> AsyncIterator[EngineOrderStore]:
    async with open_store_for(DatabaseAddress.parse(url)) as opened:
        yield opened


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[TcpProxy]:
    port = urlsplit(url).port
    assert port is not None
    async with TcpProxy(port).serving() as serving:
        yield serving


def through(proxy: TcpProxy, url: str) -> DatabaseAddress:
    parts = urlsplit(url)
    return DatabaseAddress.parse(f"postgresql://postgres@127.0.0.1:{proxy.port}{parts.path}")


def haste(address: DatabaseAddress) -> contextlib.AbstractAsyncContextManager[EngineOrderStore]:
    return open_store(PostgresDialect(address, HASTE), options=EngineOptions(writers=2))


async def place(store: EngineOrderStore, number: int) -> Order:
    return await store.place(new_order(number), lease=LEASE_FOR)


# Failures of the database, and of the way to it


async def all_ended(databases: TestDatabases, url: str) -> None:
    """Ends every connection to the database, as the one who owns it may."""
    await databases.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
        urlsplit(url).path.removeprefix("/"),
    )


async def insisting(write: Callable[[], Awaitable[object]]) -> None:
    """Repeats until there is an answer, as who calls the service does."""
    async with asyncio.timeout(30):
        while True:
            try:
                await write()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            except VersionConflict:
                return  # it had been written, and the answer was lost
            else:
                return


async def test_ended_connections_under_load_lose_nothing_and_write_nothing_twice(
    stores: Stores, postgres: TestDatabases, url: str
) -> None:
    async def live(number: int) -> None:
        store = stores[number % 3]
        order = new_order(number)
        await insisting(lambda: store.place(order, lease=LEASE_FOR))
        await insisting(lambda: store.save(order.paid(NOW)))
        await insisting(lambda: store.get(order.id))

    async def end_them_again_and_again() -> None:
        while True:
            await all_ended(postgres, url)
            await asyncio.sleep(0.1)

    ending = asyncio.create_task(end_them_again_and_again())
    numbers = iter(range(300))

    async def producer() -> None:
        for number in numbers:
            await live(number)

    await asyncio.gather(*(producer() for _ in range(20)))
    ending.cancel()
    await asyncio.wait([ending])
    await insisting(stores[0].ping)
    expected = [new_order(number).paid(NOW) for number in range(300)]
    assert await stores[0].list(OrderQuery(limit=1000)) == expected[::-1]
    events = [
        (event.order.id, event.order.version) for event in await stores[0].unpublished(limit=2000)
    ]
    assert sorted(events) == [(order.id, version) for order in expected for version in (1, 2)]


async def test_a_database_that_crashed_under_load_has_all_that_was_acknowledged() -> None:
    with postgres_process() as server:
        async with (
            TestDatabases(server.url).new() as its_url,
            open_store_for(DatabaseAddress.parse(its_url)) as store,
        ):
            numbers = itertools.count()
            acknowledged: list[Order] = []
            refused = 0
            ended = False

            async def producer() -> None:
                nonlocal refused
                while not ended:
                    order = new_order(next(numbers))
                    try:
                        acknowledged.append(await store.place(order, lease=LEASE_FOR))
                    except StoreUnavailable:
                        refused += 1
                        await asyncio.sleep(0.01)

            producers = [asyncio.create_task(producer()) for _ in range(20)]
            await until(lambda: len(acknowledged) > 100)
            await asyncio.to_thread(server.stop, at_once=True)
            await until(lambda: refused > 40)
            before = len(acknowledged)
            await asyncio.to_thread(server.start)
            await until(lambda: len(acknowledged) > before + 100, timeout_s=15)
            ended = True
            await asyncio.gather(*producers)
            stored = await store.list(OrderQuery(limit=2**31))
            assert {order.id for order in acknowledged} <= {order.id for order in stored}
            events = await store.unpublished(limit=2**31)
            assert sorted(event.order.id for event in events) == sorted(o.id for o in stored)


async def test_while_the_database_is_away_writes_and_reads_fail_at_once_and_then_go_on(
    proxy: TcpProxy, url: str
) -> None:
    async with haste(through(proxy, url)) as store:
        order = await place(store, 1)
        proxy.requests_pass = False
        proxy.cut()
        with pytest.raises(StoreUnavailable):
            await store.save(order.paid(NOW))
        with pytest.raises(StoreUnavailable):
            await store.get(order.id)
        with pytest.raises(StoreUnavailable):
            await store.ping()
        proxy.requests_pass = True
        await insisting(store.ping)
        await store.save(order.paid(NOW))
        assert await store.get(order.id) == order.paid(NOW)


async def test_a_write_whose_answer_is_lost_is_found_by_asking_again(
    proxy: TcpProxy, url: str, connection: asyncpg.Connection
) -> None:
    async with haste(through(proxy, url)) as store:
        await place(store, 1)
        proxy.answers_pass = False
        writing = asyncio.create_task(place(store, 2))
        await until(lambda: proxy.lost)
        proxy.cut()
        with pytest.raises(StoreUnavailable, match="could not write"):
            await writing
        proxy.answers_pass = True
        again = new_order(3, request=2)
        assert await store.place(again, lease=LEASE_FOR) == new_order(2)
        assert await connection.fetchval("SELECT count(*) FROM orders") == 2


async def test_a_database_that_says_nothing_holds_up_no_writer(proxy: TcpProxy, url: str) -> None:
    async with haste(through(proxy, url)) as store:
        order = await place(store, 1)
        proxy.answers_pass = False
        both = [place(store, 2), store.save(order.paid(NOW))]  # in one transaction
        failures = await asyncio.gather(*both, return_exceptions=True)
        assert [type(failure) for failure in failures] == [StoreUnavailable] * 2
        with pytest.raises(StoreUnavailable):
            await store.get(order.id)
        proxy.answers_pass = True
        proxy.cut()
        await insisting(store.ping)
        assert (await place(store, 4)) == new_order(4)


async def test_a_lock_that_lasts_too_long_fails_the_batch(
    url: str, connection: asyncpg.Connection
) -> None:
    async with haste(DatabaseAddress.parse(url)) as store:
        order = await place(store, 1)
        async with connection.transaction():
            await connection.execute("SELECT FROM orders FOR UPDATE")
            with pytest.raises(StoreUnavailable):
                await store.save(order.paid(NOW))
            assert await store.get(order.id) == order  # readers do not wait for writers
            assert await place(store, 2) == new_order(2)
        await store.save(order.paid(NOW))


async def test_a_process_that_stops_in_a_transaction_does_not_keep_its_locks(
    dialect: PostgresDialect,
) -> None:
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    # As a process that is frozen between two statements: its connection is open, and says nothing.
    frozen = await dialect._connector.connect()
    await frozen.execute("BEGIN")
    await frozen.execute("SELECT FROM orders FOR UPDATE")
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(StoreUnavailable):
                await dialect.write([Save(new_order(1).paid(NOW), None)])
                break
    frozen.terminate()


async def test_a_connection_that_may_not_write_any_more_is_given_up(
    dialect: PostgresDialect,
) -> None:
    """As when the server that it leads to has become another's standby."""
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    [idle] = dialect._idle_writers
    await idle.execute("SET default_transaction_read_only = on")
    with pytest.raises(StoreUnavailable):
        await dialect.write([Place(new_order(2), LEASE_FOR)])
    await dialect.write([Place(new_order(2), LEASE_FOR)])
    assert await dialect.get(new_order(2).id) == new_order(2)


async def test_a_closed_store_answers_nobody(url: str) -> None:
    async with open_store_for(DatabaseAddress.parse(url)) as store:
        await place(store, 1)
    with pytest.raises(StoreUnavailable):
        await place(store, 2)
    with pytest.raises(StoreUnavailable):
        await store.get(new_order(1).id)
    with pytest.raises(StoreUnavailable):
        await store.ping()


async def test_a_closed_store_leaves_no_connection(
    url: str, connection: asyncpg.Connection
) -> None:
    async with open_store_for(DatabaseAddress.parse(url)) as store:
        await asyncio.gather(*(place(store, number) for number in range(20)))
        await asyncio.gather(*(store.get(new_order(number).id) for number in range(20)))
    left = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    async with asyncio.timeout(5):
        while await connection.fetchval(left):
            await asyncio.sleep(0.01)


async def test_reads_beyond_the_pool_wait_for_a_connection(
    url: str, connection: asyncpg.Connection
) -> None:
    dialect = PostgresDialect(DatabaseAddress.parse(url), PostgresOptions(readers=3))
    async with open_store(dialect, options=EngineOptions()) as store:
        order = await place(store, 1)
        assert await asyncio.gather(*(store.get(order.id) for _ in range(50))) == [order] * 50
        idle = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'orderflow'"
            " AND datname = current_database()"
        )
        assert idle <= 3 + 1


# Cancellation and deadlines


async def queue_depth_is(store: EngineOrderStore, depth: int) -> None:
    async with asyncio.timeout(10):
        while store.queue_depth != depth:
            await asyncio.sleep(0)


async def test_cancelling_writes_all_of_a_started_batch_and_none_of_a_waiting_one(
    url: str, connection: asyncpg.Connection
) -> None:
    dialect = PostgresDialect(DatabaseAddress.parse(url), PostgresOptions())
    async with open_store(dialect, options=EngineOptions(writers=1)) as store:
        order = await place(store, 1)
        paid = order.paid(NOW)
        async with connection.transaction():
            await connection.execute("SELECT FROM orders FOR UPDATE")  # holds up the batch
            started = asyncio.create_task(store.save(paid))
            await queue_depth_is(store, 1)
            await queue_depth_is(store, 0)
            waiting = [asyncio.create_task(place(store, number)) for number in (2, 3)]
            await queue_depth_is(store, 2)
            started.cancel()
            waiting[0].cancel()
            await asyncio.wait([started, waiting[0]])
        assert await waiting[1] == new_order(3)
        assert await store.get(order.id) == paid
        with pytest.raises(OrderNotFound):
            await store.get(new_order(2).id)


async def test_cancelled_reads_leave_their_connections_as_good_as_before(
    url: str, connection: asyncpg.Connection
) -> None:
    dialect = PostgresDialect(DatabaseAddress.parse(url), PostgresOptions(readers=2))
    async with open_store(dialect, options=EngineOptions()) as store:
        order = await place(store, 1)
        for _ in range(5):
            async with connection.transaction():
                await connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
                reads = [asyncio.create_task(store.get(order.id)) for _ in range(4)]
                await asyncio.sleep(0.01)  # two of them are under way, whichever way they are
                for read in reads:
                    read.cancel()
                await asyncio.wait(reads)
            assert await asyncio.gather(*(store.get(order.id) for _ in range(4))) == [order] * 4


async def test_a_read_whose_deadline_has_passed_is_not_begun(store: EngineOrderStore) -> None:
    order = await place(store, 1)
    with (
        deadline.within(Deadline(10.0, clock=lambda: 10.0)),
        pytest.raises(DeadlineExpired, match="before the read began"),
    ):
        await store.get(order.id)
    assert await store.get(order.id) == order


async def test_a_statement_is_given_up_when_the_time_is_up(
    store: EngineOrderStore, connection: asyncpg.Connection
) -> None:
    order = await place(store, 1)
    async with connection.transaction():
        await connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with (
            deadline.within(Deadline.after(0.1)),
            pytest.raises(DeadlineExpired, match="during a read"),
        ):
            await store.get(order.id)
        # The server has given it up, too.
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        async with asyncio.timeout(5):
            while await connection.fetchval(waiting):
                await asyncio.sleep(0.01)
    assert await store.get(order.id) == order
