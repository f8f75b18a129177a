"""The server that takes writes becomes another one, or stops to take writes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.postgres import FORGETFUL, URL_VARIABLE, PostgresProcess, postgres_process
from fakes.tcp_proxy import TcpProxy
from harness import until
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.order import Order, OrderQuery
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import GiveUpLease, Place
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect, PostgresOptions
from orderflow_server.storage.postgres import connecting as connecting_module
from orderflow_server.storage.postgres.connecting import Connector


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Server:
    """A server whose settings may be changed, and a database of it."""

    url: str

    @property
    def port(self) -> int | None:
        return urlsplit(self.url).port


@pytest.fixture
def server(url: str) -> Server:
    if URL_VARIABLE in os.environ:
        pytest.skip("others may use the server that was given")
    return Server(url)


async def run(server: Server | PostgresProcess, *statements: str) -> Any:
    """Runs statements as the one who owns the server; returns the last one's first value."""
    connection = await asyncpg.connect(server.url)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def set_read_only(server: Server | PostgresProcess, value: str) -> None:
    await run(
        server,
        "SET default_transaction_read_only = off",
        f"ALTER SYSTEM SET default_transaction_read_only = {value}",
        "SELECT pg_reload_conf()",
    )


@asynccontextmanager
async def opened(
    server: Server, clock: Clock, *, readers: int = 1
) -> AsyncIterator[PostgresDialect]:
    dialect = PostgresDialect(
        DatabaseAddress.parse(server.url), PostgresOptions(readers=readers), clock=clock
    )
    await dialect.open()
    try:
        yield dialect
    finally:
        await dialect.close()


async def insisting(write: Callable[[], Awaitable[object]]) -> None:
    """Repeats until there is an answer, as who calls the service does."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailable):
                await write()
                return
            await asyncio.sleep(0.01)


# One server


async def test_a_server_that_became_read_only_is_neither_read_nor_written(
    server: Server,
) -> None:
    clock = Clock()
    async with opened(server, clock, readers=4) as dialect:
        order = new_order(1)
        await dialect.write([Place(order, LEASE_FOR)])
        await asyncio.gather(*(dialect.get(order.id) for _ in range(20)))
        await set_read_only(server, "on")
        try:
            failure = None
            async with asyncio.timeout(10):
                while failure is None:  # The server takes its time to tell its processes.
                    clock.now_s += 2
                    try:
                        await dialect.get(order.id)
                    except StoreUnavailable as error:
                        failure = error
            assert "the server is read-only or a standby" in str(failure)
            with pytest.raises(StoreUnavailable, match="read-only or a standby"):
                await dialect.write([Place(new_order(2), LEASE_FOR)])
            for _ in range(4):
                with pytest.raises(StoreUnavailable, match="read-only or a standby"):
                    await dialect.get(order.id)
            with pytest.raises(StoreUnavailable, match="read-only or a standby"):
                async with open_store_for(DatabaseAddress.parse(server.url)):
                    pass
        finally:
            await set_read_only(server, "off")
        await insisting(lambda: dialect.get(order.id))
        await insisting(lambda: dialect.write([Place(new_order(3), LEASE_FOR)]))
        assert await dialect.get(new_order(3).id) == new_order(3)


async def test_a_check_costs_one_statement_a_second_for_each_connection(
    server: Server,
) -> None:
    clock = Clock()
    async with opened(server, clock) as dialect:
        order = new_order(10)
        await dialect.write([Place(order, LEASE_FOR)])
        seen: list[str] = []
        assert dialect._readers is not None
        async with dialect._reader(dialect._readers) as connection:  # The only one.
            await dialect._connector.takes_writes(connection)  # Prepares the statement.
            connection.add_query_logger(lambda query: seen.append(query.query))
        await dialect.get(order.id)

        async def statements(reads: int) -> int:
            await asyncio.sleep(0)  # The logger is called by the event loop.
            seen.clear()
            for _ in range(reads):
                await dialect.get(order.id)
            await asyncio.sleep(0)
            return len(seen)

        assert await statements(50) == 50, "a connection that was just made is trusted"
        clock.now_s += 1.0
        assert await statements(50) == 51
        clock.now_s += 0.9
        assert await statements(50) == 50
        await run(server, "ALTER TABLE leases RENAME TO away", "SELECT 1")
        with pytest.raises(StoreUnavailable, match='relation "leases" does not exist'):
            await dialect.write([GiveUpLease("relay", "me")])
        assert await statements(50) == 51, "any failure casts doubt on all connections"


async def test_a_connection_that_was_ended_is_replaced_before_the_read(
    server: Server,
) -> None:
    clock = Clock()
    async with opened(server, clock, readers=4) as dialect:
        order = new_order(20)
        await dialect.write([Place(order, LEASE_FOR)])
        await asyncio.gather(*(dialect.get(order.id) for _ in range(20)))
        await run(
            server,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'orderflow'",
        )
        clock.now_s += 2
        answers = await asyncio.gather(*(dialect.get(order.id) for _ in range(20)))
        assert answers == [order] * 20
        await dialect.write([Place(new_order(21), LEASE_FOR)])


# Several hosts


@dataclass(frozen=True)
class SilentHost:
    """Takes connections and never says anything."""

    port: int
    taken: list[asyncio.StreamWriter]


@pytest.fixture
async def silent() -> AsyncIterator[SilentHost]:
    taken: list[asyncio.StreamWriter] = []
    listening = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    yield SilentHost(listening.sockets[0].getsockname()[1], taken)
    for writer in taken:
        writer.close()
    listening.close()
    await listening.wait_closed()


async def test_a_host_that_is_silent_costs_one_connect_timeout(
    server: Server, silent: SilentHost
) -> None:
    url = server.url.replace(f":{server.port}", f":{silent.port},127.0.0.1:{server.port}")
    connector = Connector(DatabaseAddress.parse(url), PostgresOptions(connect_timeout_s=1.0))
    for _ in range(3):
        await (await connector.connect()).close()
    assert len(silent.taken) == 1, "the host that answered is tried first"


async def test_callers_with_little_time_get_past_a_silent_host(
    server: Server, silent: SilentHost
) -> None:
    url = server.url.replace(f":{server.port}", f":{silent.port},127.0.0.1:{server.port}")
    connector = Connector(DatabaseAddress.parse(url), PostgresOptions(connect_timeout_s=60))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connector.connect()
    await (await connector.connect()).close()


async def test_a_primary_that_falls_silent_costs_one_check(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other connections are not asked one after the other: they are not used again."""
    monkeypatch.setattr(connecting_module, "_CHECK_TIMEOUT_S", 0.2)
    clock = Clock()
    order = new_order(30)
    assert server.port is not None
    async with TcpProxy(server.port).serving() as first:
        url = server.url.replace(f":{server.port}", f":{first.port},127.0.0.1:{server.port}")
        dialect = PostgresDialect(
            DatabaseAddress.parse(url),
            PostgresOptions(readers=8, connect_timeout_s=1.0, statement_timeout_s=30.0),
            clock=clock,
        )
        await dialect.open()
        await dialect.write([Place(order, LEASE_FOR)])
        await asyncio.gather(*(dialect.get(order.id) for _ in range(40)))
        first.answers_pass = False
        clock.now_s += 2
        before = dialect._connector._failures
        for _ in range(8):
            assert await dialect.get(order.id) == order
        assert dialect._connector._failures == before + 1
        assert await asyncio.gather(*(dialect.get(order.id) for _ in range(40))) == [order] * 40
        await dialect.write([Place(new_order(31), LEASE_FOR)])
        await dialect.close()


async def test_when_no_host_will_do_each_reason_is_given_once(server: Server) -> None:
    url = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:2,127.0.0.1:{server.port}/missing"
    connector = Connector(DatabaseAddress.parse(url), PostgresOptions())
    with pytest.raises(StoreUnavailable) as failure:
        await connector.connect()
    text = str(failure.value)
    assert text.count("the connection was refused") == 1
    assert text.endswith('; database "missing" does not exist')


async def test_a_url_may_ask_for_any_server(server: Server) -> None:
    clock = Clock()
    await set_read_only(server, "on")
    try:
        for attributes, usable in (("any", True), ("primary", True), ("read-write", False)):
            url = f"{server.url}?target_session_attrs={attributes}"
            connector = Connector(DatabaseAddress.parse(url), PostgresOptions(), clock=clock)
            if not usable:
                with pytest.raises(StoreUnavailable, match="read-only or a standby"):
                    await connector.connect()
                continue
            connection = await connector.connect()
            clock.now_s += 2
            assert await connector.checked(connection)
            await connection.close()
    finally:
        await set_read_only(server, "off")


# Two servers


@contextmanager
def primary_and_standby() -> Iterator[tuple[PostgresProcess, PostgresProcess]]:
    with postgres_process() as primary, postgres_process(FORGETFUL, standby_of=primary) as standby:
        yield primary, standby


async def fence(primary: PostgresProcess, how: str) -> None:
    if how == "read-only":
        await set_read_only(primary, "on")
    else:
        await asyncio.to_thread(primary.restart_as_standby)


@pytest.mark.e2e
@pytest.mark.parametrize("how", ["read-only", "standby"])
@pytest.mark.parametrize("query", ["", "?target_session_attrs=read-write"])
async def test_after_a_failover_reads_follow_the_writes(how: str, query: str) -> None:
    with primary_and_standby() as (primary, standby):
        hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        address = DatabaseAddress.parse(f"postgresql://postgres@{hosts}/postgres{query}")
        async with open_store_for(address) as store, open_store_for(address) as other:
            heard: list[object] = []
            gaps: list[None] = []
            listening = asyncio.create_task(other.listen(heard.extend, lambda: gaps.append(None)))
            orders = [new_order(number) for number in range(3)]
            for order in orders:
                await store.place(order, lease=LEASE_FOR)
            for each in (store, other):
                await asyncio.gather(*(each.get(orders[0].id) for _ in range(30)))
            async with asyncio.timeout(10):
                while await run(standby, "SELECT count(*) FROM orders") != 3:
                    await asyncio.sleep(0.01)
            await fence(primary, how)
            await asyncio.to_thread(standby.promote)

            orders.append(new_order(3))
            await insisting(lambda: store.place(orders[3], lease=LEASE_FOR))
            for _ in range(30):
                assert await store.get(orders[3].id) == orders[3]
            assert await store.list(OrderQuery(limit=10)) == orders[::-1]
            # The other process, which writes nothing, finds out by its own checks.
            async with asyncio.timeout(5):
                while await listed(other) != orders[::-1]:
                    await asyncio.sleep(0.05)
            answers = await asyncio.gather(*(other.get(orders[3].id) for _ in range(30)))
            assert answers == [orders[3]] * 30
            await until(lambda: len(gaps) > 1, timeout_s=15)
            heard.clear()
            await store.save(orders[3].paid(NOW))
            await until(lambda: heard == [orders[3].id])
            listening.cancel()
            await asyncio.wait([listening])
            assert await run(primary, "SELECT count(*) FROM orders") == 3


async def listed(store: Any) -> list[Order]:
    with suppress(StoreUnavailable):
        return list(await store.list(OrderQuery(limit=10)))
    return []
