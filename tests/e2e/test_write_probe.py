"""Health follows the ability to write: a database that is locked, hung or read-only, and back."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from fakes.postgres import TestDatabases, postgres, postgres_process
from harness import running_service
from orderflow_client import OrderClient
from processes import server_process

__all__ = ["postgres"]

pytestmark = pytest.mark.e2e


async def seconds_until(client: OrderClient, ops_address: str, *, serving: bool) -> float:
    """How long it takes until health and /readyz say so, which agree."""
    begun_s = asyncio.get_running_loop().time()
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            health = await client.health()
            url = f"http://{ops_address}/readyz"
            async with session.get(url) as answer:
                ready = answer.status == 200
            if (health == "SERVING") == ready == serving:
                return asyncio.get_running_loop().time() - begun_s
            await asyncio.sleep(0.1)


async def test_a_locked_table_is_noticed_and_so_is_its_release(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with postgres.new() as url, running_service(tmp_path, database=url) as service:
        other = await asyncpg.connect(url)
        await other.execute("BEGIN; LOCK TABLE orders")
        assert await seconds_until(service.client, service.app.ops_address, serving=False) < 10
        await other.execute("ROLLBACK")
        assert await seconds_until(service.client, service.app.ops_address, serving=True) < 5
        await other.close()


async def test_a_read_only_database_is_noticed_and_so_is_its_end(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with postgres.new() as url, running_service(tmp_path, database=url) as service:
        name = url.rpartition("/")[2]

        async def read_only(to: str) -> None:
            await postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = {to}")
            await postgres.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )

        await read_only("on")
        assert await seconds_until(service.client, service.app.ops_address, serving=False) < 10
        await read_only("off")
        assert await seconds_until(service.client, service.app.ops_address, serving=True) < 5


async def test_a_postgresql_that_hangs_is_noticed_and_so_is_its_return(tmp_path: Path) -> None:
    with postgres_process() as process:
        async with running_service(tmp_path, database=process.url) as service:
            async with stopped(process.url):
                assert (
                    await seconds_until(service.client, service.app.ops_address, serving=False) < 10
                )
                await asyncio.sleep(5)
            assert await seconds_until(service.client, service.app.ops_address, serving=True) < 5


@asynccontextmanager
async def stopped(url: str) -> AsyncIterator[None]:
    """All of the server's processes stand still."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT pid FROM pg_stat_activity")
    pids = [row["pid"] for row in rows]
    pids.append(parent_of(await connection.fetchval("SELECT pg_backend_pid()")))
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await connection.close()


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


async def test_a_locked_file_is_noticed_and_so_is_its_release(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        with closing(sqlite3.connect(tmp_path / "orders.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert await seconds_until(service.client, service.app.ops_address, serving=False) < 10
            other.execute("ROLLBACK")
            assert await seconds_until(service.client, service.app.ops_address, serving=True) < 5


async def test_a_full_disk_is_noticed_and_so_is_room_for_more(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Its files cannot grow any more, as on a full disk.
        size = size_of(tmp_path / "orders.db-wal")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
        assert await seconds_until(client, server.ops_address, serving=False) < 10
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        assert await seconds_until(client, server.ops_address, serving=True) < 5


def size_of(path: Path) -> int:
    return path.stat().st_size
