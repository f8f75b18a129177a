"""Cold start, idle memory, and whether memory grows: `orderflow-server serve` as a process.

- cold start: from the start of the process to the first health check that answers SERVING, with a
  SQLite file that has to be made, and its schema. It is asked on a connection that is made anew
  every few milliseconds until there is one, so that no backoff of a client's is counted.
- idle memory: what is resident then, one second later.
- growth: of what is resident, over 200 000 calls. Of ten calls one is CreateOrder, paid at the
  gateway; the others are GetOrder. Before that, 12 000 orders are created and 20 000 such calls
  made, so that what has a bound is at it: SQLite keeps the last 8 MiB of pages that it wrote, and
  those are about 9000 orders.

Exits with 1 when the median start takes longer than 1.5 s, when the idle memory is more than
110 MB, or when memory grows by more than a twentieth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2
from rich.console import Console

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.checks import Check, conclude
from bench.load import ITEMS, closed_loop, create_orders, get_order
from bench.process import gateway, resident_bytes
from orderflow_client import OrderClient
from processes import free_port, server_process

HERE = Path(__file__).parent
STARTS = 7
WANTED_START_S = 1.5
WANTED_IDLE_MB = 110.0
WANTED_GROWTH = 1.05
SETTLE_ORDERS = 12_000
SETTLE_CALLS = 20_000
CALLS = 200_000
STEP_CALLS = 10_000
CREATED_SHARE = 10
CALLERS = 32


async def serving(address: str) -> None:
    """Returns when health says SERVING."""
    host, _, port = address.rpartition(":")
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            break
        await asyncio.sleep(0.005)
    async with grpc.aio.insecure_channel(address) as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while True:
            answer = await check(b"", wait_for_ready=True, timeout=30.0)
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(0.005)


async def start_s(directory: Path) -> float:
    began_s = time.perf_counter()
    async with server_process(directory, until_serves=False) as server:
        await serving(server.address)
        return time.perf_counter() - began_s


async def starts_s(directory: Path, count: int) -> list[float]:
    taken = []
    for number in range(count):
        its = directory / str(number)
        its.mkdir()
        taken.append(await start_s(its))
    return taken


async def idle_mb(directory: Path) -> float:
    async with server_process(directory) as server:
        await asyncio.sleep(1.0)
        return resident_bytes(server.process.pid) / 1e6


async def growing_mb(directory: Path, calls: int) -> list[float]:
    """What is resident after the first calls, and after every 10 000 that follow."""
    port = free_port()
    async with (
        gateway(port, directory / "log"),
        server_process(directory, arguments=["--gateway", f"127.0.0.1:{port}"]) as server,
        OrderClient(server.address) as client,
    ):
        order = await client.create_order(
            customer_id="alice", items=ITEMS, payment_token="tok_visa", timeout_s=10
        )
        async with (
            create_orders(server.address) as create,
            get_order(server.address, order.id) as get,
        ):
            number = 0

            async def call() -> None:
                nonlocal number
                number += 1
                await (create() if number % CREATED_SHARE == 0 else get())

            await closed_loop(create, callers=CALLERS, calls=SETTLE_ORDERS)
            await closed_loop(call, callers=CALLERS, calls=SETTLE_CALLS)
            resident_mb = [resident_bytes(server.process.pid) / 1e6]
            while number < SETTLE_CALLS + calls:
                await closed_loop(call, callers=CALLERS, calls=STEP_CALLS)
                resident_mb.append(resident_bytes(server.process.pid) / 1e6)
    return resident_mb


def main() -> int:
    parser = argparse.ArgumentParser(description="Cold start and memory.")
    parser.add_argument("--calls", type=int, default=CALLS, help="for the growth (%(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-") as directory:
        its = Path(directory)
        started_s = asyncio.run(starts_s(its, STARTS))
        idle = asyncio.run(idle_mb(its))
        resident_mb = uvloop.run(growing_mb(its, given.calls))
    Console().print("resident, MB:", *(f"{each:.1f}" for each in resident_mb))
    checks = [
        Check(
            name="cold start to SERVING",
            measured=statistics.median(started_s),
            unit="s",
            at_most=WANTED_START_S,
        ),
        Check(name="idle memory", measured=idle, unit="MB", at_most=WANTED_IDLE_MB),
        Check(
            name=f"memory after {given.calls:,} calls, of before",
            measured=max(resident_mb) / resident_mb[0],
            at_most=WANTED_GROWTH,
        ),
    ]
    figures = {"start_s": started_s, "idle_mb": [idle], "resident_mb": resident_mb}
    return conclude("starting", checks, figures=figures)


if __name__ == "__main__":
    sys.exit(main())
