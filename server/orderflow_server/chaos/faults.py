"""What can break. Each is a context: broken within it, mended after it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import asyncpg

from orderflow_server.chaos.world import World
from orderflow_server.payments.simulator.client import set_faults
from orderflow_server.payments.simulator.faults import Faults

Fault = Callable[[World], AbstractAsyncContextManager[None]]

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
