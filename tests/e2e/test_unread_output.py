"""The output of a server goes nowhere: its calls, health checks and signals go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from orderflow_client import OrderClient, item, money
from processes import ServerProcess, server_process

pytestmark = pytest.mark.e2e

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


async def place_orders(server: ServerProcess, count: int) -> None:
    """Place orders, each of which the server logs with several lines."""
    async with OrderClient(server.address) as client, asyncio.timeout(30):
        for _ in range(count):
            await client.create_order(customer_id="alice", items=ITEMS, payment_token="tok_visa")


async def metric(server: ServerProcess, name: str) -> float:
    async with asyncio.timeout(5), aiohttp.ClientSession() as http:
        async with http.get(f"http://{server.ops_address}/livez") as response:
            assert response.status == 200
        async with http.get(f"http://{server.ops_address}/metrics") as response:
            text = await response.text()
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


async def stops(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await server.process.wait() == 0


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
async def test_a_server_whose_pipe_is_never_read_serves_and_stops(
    tmp_path: Path, both: bool
) -> None:
    read, write = os.pipe()
    try:
        # So full that the first line of the server already blocks.
        os.set_blocking(write, False)
        while True:
            try:
                os.write(write, b"x" * 1024)
            except BlockingIOError:
                break
        os.set_blocking(write, True)
        async with server_process(tmp_path, stdout=write, stderr=write if both else None) as server:
            await place_orders(server, 300)
            await metric(server, "orderflow_log_lines_dropped_total")
            await stops(server)
    finally:
        os.close(read)
        os.close(write)


async def test_lines_that_wait_for_a_slow_reader_arrive_in_order(tmp_path: Path) -> None:
    read, write = os.pipe()
    async with server_process(tmp_path, stdout=write) as server:
        os.close(write)
        await place_orders(server, 300)
        reading = asyncio.create_task(asyncio.to_thread(read_all, read))
        await stops(server)
        lines = [json.loads(line) for line in (await reading).splitlines()]
    assert len([line for line in lines if line.get("method") == "CreateOrder"]) == 300
    assert lines[-1]["event"] == "stopped"


def read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.mark.parametrize("kind", ["closed pipe", "full disk"])
async def test_a_write_error_fails_no_call_and_is_reported_once(tmp_path: Path, kind: str) -> None:
    if kind == "full disk":
        write = os.open("/dev/full", os.O_WRONLY)
    else:
        read, write = os.pipe()
        os.close(read)
    try:
        async with server_process(tmp_path, stdout=write) as server:
            await place_orders(server, 50)
            # The last lines leave some milliseconds after their calls.
            async with asyncio.timeout(10):
                while await metric(server, "orderflow_log_lines_dropped_total") < 50:
                    await asyncio.sleep(0.05)
            await stops(server)
    finally:
        os.close(write)
    assert server.stderr.count("log lines cannot be written") == 1
    assert "Traceback" not in server.stderr
    assert "Exception" not in server.stderr


async def test_a_server_without_standard_output_serves(tmp_path: Path) -> None:
    """Its first file would get descriptor 1, which is not for log lines."""
    async with server_process(tmp_path, closed=(1,)) as server:
        await place_orders(server, 10)
        await stops(server)
    assert "Traceback" not in server.stderr
