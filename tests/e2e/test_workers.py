"""Several server processes on one port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from harness import until
from orderflow_client import OrderClient, item, money
from processes import ServerProcess, run_server_command, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]
STARTING_S = 30.0
CONNECTIONS = 12


@asynccontextmanager
async def two_workers(directory: Path, *arguments: str) -> AsyncIterator[ServerProcess]:
    """Both serve when this yields."""
    arguments = ("--workers", "2", "--ops-address", "127.0.0.1:0", *arguments)
    async with server_process(directory, arguments=arguments) as server:
        await until(lambda: said(server, "all workers serve"), timeout_s=STARTING_S)
        yield server


@asynccontextmanager
async def connections(address: str) -> AsyncIterator[list[OrderClient]]:
    """Each a connection of its own, so that both workers have some of them."""
    alone = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, options=alone))
            for _ in range(CONNECTIONS)
        ]
        yield [OrderClient(channel) for channel in channels]


def said(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stdout.splitlines()]
    return [line for line in lines if line["event"] == event]


def processes_of(server: ServerProcess) -> list[int]:
    """The workers: what the supervisor has started and what still runs."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def place(address: str) -> str:
    async with OrderClient(address) as client:
        order = await client.create_order(
            customer_id="alice", items=ITEMS, payment_token="tok_visa"
        )
        return order.id


async def test_calls_are_spread_over_the_workers_and_all_have_the_same_orders(
    tmp_path: Path,
) -> None:
    async with two_workers(tmp_path) as server:
        assert len(processes_of(server)) == 2
        # The kernel deals out connections, not calls.
        placed = {await place(server.address) for _ in range(20)}
        async with OrderClient(server.address) as client:
            assert {order.id async for order in client.list_orders()} == placed
        server.process.terminate()
        async with asyncio.timeout(10):
            assert await server.process.wait() == 0
        ops_addresses = {line["ops_address"] for line in said(server, "serving")}
        assert len(ops_addresses) == 2
        assert len(said(server, "stopped")) == 2


async def test_a_worker_that_is_killed_is_started_again(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as server:
        before = processes_of(server)
        os.kill(before[0], signal.SIGKILL)
        await until(
            lambda: len(said(server, "serving")) == 3 and len(processes_of(server)) == 2,
            timeout_s=STARTING_S,
        )
        assert before[1] in processes_of(server)
        [line] = said(server, "a worker ended, it is started again")
        assert line["code"] == -signal.SIGKILL
        await place(server.address)


async def test_the_workers_end_with_their_supervisor_however_it_ends(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as server:
        workers = processes_of(server)
        server.process.kill()
        await until(lambda: not any(map(runs, workers)), timeout_s=10)
        assert len(said(server, "stopped")) == 2


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as server, OrderClient(server.address) as client:
        order = await place(server.address)
        watch = client.watch_order(order)
        await anext(aiter(watch))
        workers = processes_of(server)
        server.process.send_signal(signal.SIGINT)
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await server.process.wait() in {0, 128 + signal.SIGINT}
        await until(lambda: not any(map(runs, workers)), timeout_s=5)


async def test_workers_that_cannot_start_are_not_started_again_and_again(tmp_path: Path) -> None:
    code, output = await run_server_command(
        *("serve", "--workers", "2", "--address", "127.0.0.1:0"),
        *("--database", str(tmp_path / "missing" / "orders.db")),
    )
    assert code == 1
    assert "cannot be opened" in output
    assert "a worker ended with 1 before it served" in output
    assert "Traceback" not in output


async def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server:
        code, output = await run_server_command(
            *("serve", "--workers", "2", "--address", server.address),
            *("--database", str(tmp_path / "other.db")),
        )
    assert code == 1
    assert server.address in output
    assert "Traceback" not in output


async def see_all_changes(address: str) -> None:
    """Changes made through each connection are seen on all of them."""
    async with connections(address) as clients:
        orders = await asyncio.gather(
            *(
                client.create_order(customer_id="alice", items=ITEMS, payment_token="tok_visa")
                for client in clients
            )
        )
        versions: dict[tuple[str, int], list[int]] = {
            (order.id, number): [] for order in orders for number in range(CONNECTIONS)
        }

        async def watch(order_id: str, number: int) -> None:
            async for change in clients[number].watch_order(order_id):
                versions[order_id, number].append(change.version)

        async with asyncio.timeout(40), asyncio.TaskGroup() as group:
            for order_id, number in versions:
                group.create_task(watch(order_id, number))
            await until(lambda: all(versions.values()), timeout_s=20)
            await asyncio.gather(
                *(
                    client.cancel_order(order.id)
                    for client, order in zip(clients, reversed(orders), strict=True)
                )
            )
            began_s = asyncio.get_running_loop().time()
        took_s = asyncio.get_running_loop().time() - began_s
    assert set(map(tuple, versions.values())) == {(2, 3, 4)}
    assert took_s < 3  # Mostly sooner than the look that needs no telling, over PostgreSQL.


async def test_a_watch_at_one_worker_sees_the_changes_made_at_the_other(tmp_path: Path) -> None:
    async with two_workers(tmp_path) as server:
        await see_all_changes(server.address)


async def test_workers_over_postgresql_are_one_service(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with (
        postgres.new(empty=True) as database,
        two_workers(tmp_path, "--database", database) as server,
    ):
        await see_all_changes(server.address)
        os.kill(processes_of(server)[0], signal.SIGKILL)
        await until(
            lambda: len(said(server, "serving")) == 3 and len(processes_of(server)) == 2,
            timeout_s=STARTING_S,
        )
        async with connections(server.address) as clients:
            listed = await asyncio.gather(*(ids_at(client) for client in clients))
        assert len(listed[0]) == CONNECTIONS
        assert all(ids == listed[0] for ids in listed)
        server.process.terminate()
        async with asyncio.timeout(15):
            assert await server.process.wait() == 0


async def ids_at(client: OrderClient) -> list[str]:
    return [order.id async for order in client.list_orders()]
