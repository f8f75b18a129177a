"""What OrderClient costs its caller: client CPU per call, against the generated stub.

Both call the same bare server (`bench/peers/bare.py`), a process of its own, and build the same
requests; the stub has a channel as `grpc.aio.insecure_channel` makes it. OrderClient adds
deadlines, retries, the budget, breakers, hedging (GetOrder), balancing by health, typed errors.

This process calls with one and with the other, a fixed number at once, round after round; what
counts is the CPU time of all its threads, and the median over the rounds of the ratio in the same
round. Exits with 1 when OrderClient takes more than 1.3 times the stub's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent.parent))

from bench.checks import Check, conclude, ratio
from bench.load import ITEMS, closed_loop
from bench.process import cpu_s, script
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client import OrderClient

PEER = Path(__file__).parent / "peers/bare.py"
CALLERS = 16
CALLS = 640
WARM_UP = 160
WANTED_RATIO = 1.3
QUICK_RATIO = 2.0
ROUNDS = 40
QUICK_ROUNDS = 8
ORDER_ID = "0198a3a0-0000-7000-8000-000000000000"
TIMEOUT_S = 5.0

Pair = tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]


def pairs(
    stub: order_service_pb2_grpc.OrderServiceAsyncStub, client: OrderClient
) -> dict[str, Pair]:
    """For each method, the call with the stub and the one with the client."""

    async def create_with_stub() -> object:
        request = pb.CreateOrderRequest(
            request_id=str(uuid.uuid4()), customer_id="alice", items=ITEMS, payment_token="tok_visa"
        )
        return (await stub.CreateOrder(request, timeout=TIMEOUT_S)).order

    async def create_with_client() -> object:
        return await client.create_order(
            customer_id="alice", items=ITEMS, payment_token="tok_visa", timeout_s=TIMEOUT_S
        )

    async def get_with_stub() -> object:
        request = pb.GetOrderRequest(order_id=ORDER_ID)
        return (await stub.GetOrder(request, timeout=TIMEOUT_S)).order

    async def get_with_client() -> object:
        return await client.get_order(ORDER_ID, timeout_s=TIMEOUT_S)

    return {
        "CreateOrder": (create_with_stub, create_with_client),
        "GetOrder": (get_with_stub, get_with_client),
    }


async def us_per_call(call: Callable[[], Awaitable[object]]) -> float:
    """What this process takes for a call."""

    async def once() -> None:
        await call()

    # What had gone cold while the other had its turn is not its own.
    await closed_loop(once, callers=CALLERS, calls=WARM_UP)
    before_s = cpu_s(os.getpid())
    sample = await closed_loop(once, callers=CALLERS, calls=CALLS)
    return (cpu_s(os.getpid()) - before_s) / sample.calls * 1e6


async def measure(address: str, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    """Microseconds of each call by round: the stub's, the client's."""
    async with OrderClient(address) as client, grpc.aio.insecure_channel(address) as channel:
        both = pairs(order_service_pb2_grpc.OrderServiceStub(channel), client)
        figures: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in both}
        for number in range(rounds + 1):
            for name, (with_stub, with_client) in both.items():
                of_stub, of_client = await us_per_call(with_stub), await us_per_call(with_client)
                if number:  # the first fills caches
                    figures[name][0].append(of_stub)
                    figures[name][1].append(of_client)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description="OrderClient against the generated stub.")
    parser.add_argument("--quick", action="store_true", help="a few rounds, with a wide bound")
    quick = parser.parse_args().quick
    with (
        tempfile.TemporaryDirectory() as directory,
        script(PEER, log=Path(directory, "log")) as server,
    ):
        figures = asyncio.run(measure(server.address, QUICK_ROUNDS if quick else ROUNDS))
    table = Table(title=f"Client CPU per call, us, {CALLERS} at once")
    for column in ("", "stub", "OrderClient", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    checks = []
    for name, (of_stub, of_client) in figures.items():
        cost = ratio(of_client, of_stub)
        medians = (statistics.median(of_stub), statistics.median(of_client))
        table.add_row(name, *(f"{median:.0f}" for median in medians), f"{cost:.2f}")
        checks.append(
            Check(
                name=f"client CPU of {name}, of a stub's",
                measured=cost,
                at_most=QUICK_RATIO if quick else WANTED_RATIO,
            )
        )
    Console().print(table)
    found = {name: {"stub_us": a, "client_us": b} for name, (a, b) in figures.items()}
    return conclude("client", checks, figures=found, quick=quick)


if __name__ == "__main__":
    sys.exit(main())
