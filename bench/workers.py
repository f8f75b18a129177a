"""What a second worker gains: `orderflow-server serve --workers 2` against one.

Both over PostgreSQL with a gateway in a process of its own; each load process has connections,
which the kernel gives to the workers, and whose calls take turns. CreateOrder is called by 64
callers for each worker: with as many for two as for one, what a second one gains would be bounded
by how many call, not by what can be served. The two servers take turns, round after round.

Two workers, PostgreSQL, the gateway and the load together need more than six cores before the
throughput is the workers' own. Where there are fewer, each worker gets a quarter of a core, by a
control group. Where that is not allowed either (it takes root), the check is on what the gain would
follow from: an order's CPU at two workers is at most 2 / 1.6 = 1.25 times that at one.

Exits with 1 when the throughput of two is less than 1.6 times that of one.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.checks import Check, conclude, ratio
from bench.load import closed_loop, create_orders
from bench.process import children_of, cpu_s, gateway
from bench.quota import share_of_a_core
from fakes.postgres import TestDatabases, postgres_process
from processes import free_port, server_process

HERE = Path(__file__).parent
CALLERS = 64
"""For each worker."""
CONNECTIONS = 32
"""Of each load process: the kernel gives each to either worker, and of many about half."""
WANTED_GAIN = 1.6
CORES_FOR_THROUGHPUT = 7
SHARE = 0.25
"""Of a core for each worker where there are fewer."""
WARM_UP_S = 3.0


@dataclass
class Served:
    """One server, its workers, and what it took.

    Attributes:
        bounds: Its throughput is bounded by what its workers can do.
    """

    workers: int
    address: str
    pids: list[int]
    bounds: bool
    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.pids))


def load(address: str, callers: int, seconds: float) -> tuple[int, float]:
    """Runs in a process of its own; how many calls were answered, and the seconds it took."""

    async def calls() -> tuple[int, float]:
        async with create_orders(address, connections=CONNECTIONS) as call:
            sample = await closed_loop(call, callers=callers, seconds=seconds)
        return sample.calls, sample.took_s

    return uvloop.run(calls())


def from_all(
    pool: ProcessPoolExecutor, processes: int, served: Served, seconds: float
) -> tuple[int, float]:
    """The load of all processes together: how many calls, and how many a second."""
    each = CALLERS * served.workers // processes
    asked = [pool.submit(load, served.address, each, seconds) for _ in range(processes)]
    answers = [answer.result() for answer in asked]
    return sum(calls for calls, _ in answers), sum(calls / took_s for calls, took_s in answers)


@asynccontextmanager
async def servers(directory: Path, url: str) -> AsyncIterator[dict[int, Served]]:
    """By their number of workers."""
    databases = TestDatabases(url)
    port = free_port()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway(port, directory / "log"))
        made = {}
        for workers in (1, 2):
            database = await stack.enter_async_context(databases.new())
            server = await stack.enter_async_context(
                server_process(
                    directory,
                    arguments=[
                        *("--database", database, "--gateway", f"127.0.0.1:{port}"),
                        *("--workers", str(workers)),
                    ],
                )
            )
            pid = server.process.pid
            children = children_of(pid)
            bounds = (os.cpu_count() or 1) >= CORES_FOR_THROUGHPUT or stack.enter_context(
                share_of_a_core(children or [pid], SHARE)
            )
            made[workers] = Served(workers, server.address, [pid, *children], bounds)
        yield made


async def measure(url: str, *, rounds: int, seconds: float) -> dict[int, Served]:
    processes = max(2, (os.cpu_count() or 2) // 4)
    with (
        tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-") as directory,
        # gRPC does not survive a fork.
        ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool,
    ):
        async with servers(Path(directory), url) as measured:
            for served in measured.values():
                await asyncio.to_thread(from_all, pool, processes, served, WARM_UP_S)
            for _ in range(rounds):
                for served in measured.values():
                    before_s = served.cpu_s()
                    calls, per_s = await asyncio.to_thread(
                        from_all, pool, processes, served, seconds
                    )
                    served.per_s.append(per_s)
                    served.cpu_us.append((served.cpu_s() - before_s) / calls * 1e6)
    return measured


def check(one: Served, two: Served) -> Check:
    if one.bounds and two.bounds:
        gain = ratio(two.per_s, one.per_s)
        return Check(name="orders/s of two workers, of one's", measured=gain, at_least=WANTED_GAIN)
    cost = ratio(two.cpu_us, one.cpu_us)
    return Check(
        name="CPU of an order at two workers, of one's", measured=cost, at_most=2 / WANTED_GAIN
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Two workers against one.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a round (%(default)s)")
    given = parser.parse_args()
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    with postgres_process({}, within=HERE) as process:
        measured = asyncio.run(measure(process.url, rounds=given.rounds, seconds=given.seconds))
    table = Table(title=f"CreateOrder, {CALLERS} callers a worker")
    for column in ("workers", "orders/s", "CPU us an order"):
        table.add_column(column, justify="right")
    for workers, served in measured.items():
        table.add_row(
            str(workers),
            f"{statistics.median(served.per_s):,.0f}",
            f"{statistics.median(served.cpu_us):,.0f}",
        )
    Console().print(table)
    figures = {
        str(workers): {"per_s": served.per_s, "cpu_us": served.cpu_us}
        for workers, served in measured.items()
    }
    return conclude("workers", [check(measured[1], measured[2])], figures=figures)


if __name__ == "__main__":
    sys.exit(main())
