"""What can break. Each is a context: broken within it, mended after it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from orderflow_server.chaos.world import World
from orderflow_server.payments.simulator.client import set_faults
from orderflow_server.payments.simulator.faults import Faults

Fault = Callable[[World], AbstractAsyncContextManager[None]]

_TRANSACTIONS_END_S = 0.3
"""How long transactions that began before a server became read-only may still write."""
_HAS_REPLAYED = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
_POLL_S = 0.02
_UNLIMITED = -1

_KILL_CONNECTIONS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


def gateway(faults: Faults) -> Fault:
    """The gateway has these faults, instead of the usual ones."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        await set_faults(world.gateway, faults)
        try:
            yield
        finally:
            await set_faults(world.gateway, world.usual)

    return during


def server_killed(number: int) -> Fault:
    """SIGKILL; mended when it has been started again and serves."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        server = world.servers[number - 1]
        await server.kill()
        yield
        await server.start()

    return during


@asynccontextmanager
async def database_down(world: World) -> AsyncIterator[None]:
    """It crashes; mended when it has recovered and accepts connections."""
    await asyncio.to_thread(world.database.stop, at_once=True)
    yield
    await asyncio.to_thread(world.database.start)


@asynccontextmanager
async def failover(world: World) -> AsyncIterator[None]:
    """The standby becomes the primary, and the old one goes on, read-only; that is not mended.

    No write that was acknowledged is lost: the old primary takes none any more when the standby has
    all of them and is promoted.
    """
    if world.standby is None:
        raise ValueError("scenario without a standby: nothing can be promoted")
    old = await asyncpg.connect(world.database.url)
    new = await asyncpg.connect(world.standby.url)
    try:
        await old.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await old.execute("SELECT pg_reload_conf()")
        await asyncio.sleep(_TRANSACTIONS_END_S)
        written = await old.fetchval("SELECT pg_current_wal_lsn()::text")
        while not await new.fetchval(_HAS_REPLAYED, written):  # noqa: ASYNC110  another process
            await asyncio.sleep(_POLL_S)
    finally:
        await old.close()
        await new.close()
    await asyncio.to_thread(world.standby.promote)
    yield


@asynccontextmanager
async def file_deleted(world: World) -> AsyncIterator[None]:
    """The database's file is deleted; mended when the servers have been started again."""
    _delete(world.file)
    yield
    for server in world.servers:
        await server.stop()
        await server.start()


def messages_limited(most_bytes: int) -> Fault:
    """The stream refuses events that are larger."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        await world.nats.limit_messages(most_bytes)
        try:
            yield
        finally:
            await world.nats.limit_messages(_UNLIMITED)

    return during


@asynccontextmanager
async def nats_down(world: World) -> AsyncIterator[None]:
    """It is killed; mended when it is back, with what it had stored."""
    await world.nats.stop()
    yield
    await world.nats.start()


def connections_lost(every_s: float) -> Fault:
    """The database ends all its connections, again and again."""

    async def end_them(world: World) -> None:
        url = world.database.url
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection = await asyncpg.connect(url, timeout=5)
                await connection.execute(_KILL_CONNECTIONS)
                await connection.close(timeout=5)
            await asyncio.sleep(every_s)

    return _meanwhile(end_them)


def loops_blocked(every_s: float) -> Fault:
    """The event loop of each server blocks, again and again; see `victim`."""

    async def block_them(world: World) -> None:
        while True:
            for server in world.servers:
                server.block_its_loop()
            await asyncio.sleep(every_s)

    return _meanwhile(block_them)


def servers_restarted(between_s: float) -> Fault:
    """Each server in turn is stopped in order and started again; mended after the last of them."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        over = asyncio.Event()

        async def restart_them() -> None:
            for server in itertools.cycle(world.servers):
                if over.is_set():
                    return
                await server.stop()
                await server.start()
                with suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), between_s)

        async with asyncio.TaskGroup() as group:
            group.create_task(restart_them())
            yield
            over.set()

    return during


@asynccontextmanager
async def network_cut(world: World) -> AsyncIterator[None]:
    """Nothing passes between servers and database, and no connection ends."""
    world.network.cut()
    try:
        yield
    finally:
        world.network.mend()


def network_slow(latency_s: float) -> Fault:
    """All that passes between servers and database takes longer, in either direction."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        world.network.latency_s = latency_s
        try:
            yield
        finally:
            world.network.latency_s = 0.0

    return during


def _meanwhile(work: Callable[[World], Coroutine[None, None, None]]) -> Fault:
    """The work goes on within, and is cancelled at the end."""

    @asynccontextmanager
    async def during(world: World) -> AsyncIterator[None]:
        working = asyncio.create_task(work(world))
        try:
            yield
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working

    return during


def _delete(file: Path) -> None:
    """Delete a SQLite database and what SQLite writes beside it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
