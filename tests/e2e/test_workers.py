"""Several server processes on one port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from harness import until
from orderflow_client import OrderClient, item, money
from orderflow_server.workers import reserved_port
from processes import ServerProcess, run_server_command, server_process

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]
STARTING_S = 20.0


@asynccontextmanager
async def two_workers(directory: Path) -> AsyncIterator[ServerProcess]:
    """Both serve when this yields."""
    arguments = ["--workers", "2", "--ops-address", "127.0.0.1:0"]
    async with server_process(directory, arguments=arguments) as server:
        await until(lambda: said(server, "all workers serve"), timeout_s=STARTING_S)
        yield server


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
    assert "cannot open the database" in output
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


def test_a_reserved_port_is_free_for_those_who_share_it() -> None:
    with reserved_port("127.0.0.1:0") as address:
        assert not address.endswith(":0")
        with reserved_port(address) as again:
            assert again == address
