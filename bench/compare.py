"""CreateOrder, durable and paid, against its peers: orders a second, CPU, latency, memory.

Each server is a process of its own, and so are the payment gateways. Orders have three items. One
after the other gets the same load, 64 callers that each wait for their answer, round after round,
so that what else the machine does meets all. The load comes from this process.

- orderflow on PostgreSQL, on SQLite: the service as it is started with no settings but these.
- conventional: `bench/peers/conventional.py`, on the same PostgreSQL server.
- bare, opentelemetry: `bench/peers/bare.py`, which answers and does nothing: the least that a call
  of grpc.aio costs, without and with the stock tracing.

All of them run on uvloop and are scheduled as the service is. The gateways of the two on PostgreSQL
keep a dict and do nothing else, over gRPC and over HTTP: a real one is on somebody else's machine.
On SQLite it is the payment simulator that comes with the service.

PostgreSQL and SQLite are as they come, so an answer means that the order is on the disk, twice:
when it was placed, and when it was paid. After each round the database is asked whether every order
that was answered is PAID.

Exits with 1 when orderflow on PostgreSQL places fewer than 8 times the conventional peer's orders a
second or takes more than 4.5 times the CPU of a bare call, or on SQLite places fewer than 1500/s.
CPU and ratios are medians over the rounds; a ratio is between two figures of the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.checks import Check, conclude, ratio
from bench.load import Call, Sample, closed_loop, create_orders, percentile, post_orders
from bench.process import Subject, cpu_s, gateway, resident_bytes, script
from fakes.postgres import TestDatabases, postgres_process
from processes import free_port, server_process

HERE = Path(__file__).parent
CALLERS = 64
POSTGRES, SQLITE, PEER = "orderflow, PostgreSQL", "orderflow, SQLite", "conventional"
BARE, STOCK = "bare", "opentelemetry"
COUNT_PAID = "SELECT count(*) FROM orders WHERE state = 'PAID'"


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long, and what is wanted of it.

    Attributes:
        sqlite_orders_per_s: 0: nothing is, in a run that checks ratios only.
    """

    warm_up_s: float
    rounds: int
    round_s: float
    orders_ratio: float
    cpu_ratio: float
    sqlite_orders_per_s: float


FULL = Length(
    warm_up_s=5.0,
    rounds=9,
    round_s=4.0,
    orders_ratio=8.0,
    cpu_ratio=4.5,
    sqlite_orders_per_s=1500.0,
)
# A ratio of a second or two on somebody's busy machine: only what is badly wrong is to be found.
QUICK = Length(
    warm_up_s=0.7,
    rounds=3,
    round_s=0.8,
    orders_ratio=2.5,
    cpu_ratio=9.0,
    sqlite_orders_per_s=0.0,
)


@dataclass
class Side:
    """One of those that are compared, with what it measured.

    Attributes:
        paid: How many paid orders its database has. None: it has no database.
        cpu_us: Of the server, for each call, by round.
        per_s: Calls a second, by round.
        resident: The most that it had of the memory after a round, bytes.
    """

    subject: Subject
    call: Call
    paid: Callable[[], Awaitable[int]] | None = None
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    refused: int = 0
    resident: int = 0

    async def warm_up(self, seconds: float) -> None:
        await closed_loop(self.call, callers=CALLERS, seconds=seconds)

    async def round(self, seconds: float) -> None:
        before_s = cpu_s(self.subject.pid)
        paid_before = await self.paid() if self.paid else 0
        sample = await closed_loop(self.call, callers=CALLERS, seconds=seconds)
        # What was put off until after the calls is theirs too.
        await asyncio.sleep(0.2)
        used_s = cpu_s(self.subject.pid) - before_s
        if self.paid:
            paid = await self.paid() - paid_before
            if paid < sample.calls:
                raise RuntimeError(f"{sample.calls} orders were answered and {paid} are paid")
        self._note(sample, used_s)

    def _note(self, sample: Sample, used_s: float) -> None:
        self.cpu_us.append(used_s / sample.calls * 1e6)
        self.per_s.append(sample.per_s)
        self.latencies_ms += sample.latencies_ms
        self.refused += sample.refused
        self.resident = max(self.resident, resident_bytes(self.subject.pid))

    def latency_ms(self, percent: int) -> float:
        return percentile(self.latencies_ms, percent)


@asynccontextmanager
async def sides(directory: Path, databases: TestDatabases) -> AsyncIterator[dict[str, Side]]:
    """All of them, running."""
    log = directory / "log"
    async with AsyncExitStack() as stack:
        made: dict[str, Side] = {}
        for name, options in ((BARE, ()), (STOCK, ("--opentelemetry",))):
            subject = stack.enter_context(script(HERE / "peers/bare.py", *options, log=log))
            call = await stack.enter_async_context(create_orders(subject.address))
            made[name] = Side(subject, call)

        theirs = await stack.enter_async_context(databases.new(empty=True))
        pays = stack.enter_context(script(HERE / "peers/http_gateway.py", log=log))
        peer = stack.enter_context(
            script(HERE / "peers/conventional.py", theirs, f"http://{pays.address}", log=log)
        )
        call = await stack.enter_async_context(post_orders(peer.address))
        made[PEER] = Side(peer, call, _counting(theirs))

        ours = await stack.enter_async_context(databases.new())
        charges = stack.enter_context(script(HERE / "peers/grpc_gateway.py", log=log))
        simulator = f"127.0.0.1:{free_port()}"
        await stack.enter_async_context(gateway(int(simulator.rpartition(":")[2]), log))
        for name, database, target in (
            (POSTGRES, ours, charges.address),
            (SQLITE, str(directory / "orders.db"), simulator),
        ):
            server = await stack.enter_async_context(
                server_process(directory, arguments=["--database", database, "--gateway", target])
            )
            call = await stack.enter_async_context(create_orders(server.address))
            counting = _counting(database) if name == POSTGRES else _counting_file(Path(database))
            made[name] = Side(Subject(server.process.pid, server.address), call, counting)
        yield made


def _counting(database: str) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        connection = await asyncpg.connect(database)
        try:
            return int(await connection.fetchval(COUNT_PAID))
        finally:
            await connection.close()

    return count


def _counting_file(path: Path) -> Callable[[], Awaitable[int]]:
    def count() -> int:
        connection = sqlite3.connect(path)
        try:
            return int(connection.execute(COUNT_PAID).fetchone()[0])
        finally:
            connection.close()

    return lambda: asyncio.to_thread(count)


async def measure(length: Length, databases: TestDatabases) -> dict[str, Side]:
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-") as directory:
        async with sides(Path(directory), databases) as compared:
            for side in compared.values():
                await side.warm_up(length.warm_up_s)
            for _ in range(length.rounds):
                for side in compared.values():
                    await side.round(length.round_s)
    return compared


def checks(compared: Mapping[str, Side], length: Length) -> list[Check]:
    ours, sqlite, peer, bare = (compared[name] for name in (POSTGRES, SQLITE, PEER, BARE))
    found = [
        Check(
            name="orders/s, of the conventional peer's",
            measured=ratio(ours.per_s, peer.per_s),
            at_least=length.orders_ratio,
        ),
        Check(
            name="server CPU of CreateOrder, of a bare call's",
            measured=ratio(ours.cpu_us, bare.cpu_us),
            at_most=length.cpu_ratio,
        ),
    ]
    if length.sqlite_orders_per_s:
        found.append(
            Check(
                name="paid, durable orders on SQLite",
                measured=statistics.median(sqlite.per_s),
                unit="/s",
                at_least=length.sqlite_orders_per_s,
            )
        )
    return found


def overview(compared: Mapping[str, Side], length: Length) -> Table:
    table = Table(
        title=f"CreateOrder, {CALLERS} callers, {length.rounds} rounds of {length.round_s:g} s",
        caption="server CPU of a call, latency in ms, memory resident",
    )
    headings = ("per s", "CPU us", "of bare", "p50", "p95", "p99", "MB")
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for name, side in compared.items():
        table.add_row(
            name,
            f"{statistics.median(side.per_s):,.0f}",
            f"{statistics.median(side.cpu_us):,.0f}",
            f"{ratio(side.cpu_us, compared[BARE].cpu_us):.2f}",
            *(f"{side.latency_ms(percent):,.0f}" for percent in (50, 95, 99)),
            f"{side.resident / 1e6:.0f}",
        )
    return table


def figures(compared: Mapping[str, Side]) -> dict[str, object]:
    return {
        name: {
            "calls_per_s": side.per_s,
            "cpu_us": side.cpu_us,
            "latency_ms": {f"p{percent}": side.latency_ms(percent) for percent in (50, 95, 99)},
            "resident_bytes": side.resident,
            "refused": side.refused,
        }
        for name, side in compared.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="CreateOrder against its peers.")
    parser.add_argument("--quick", action="store_true", help="half a minute, with wide bounds")
    quick = parser.parse_args().quick
    length = QUICK if quick else FULL
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    with postgres_process({}, within=HERE) as process:
        # The load costs less on it than on the standard library's loop.
        compared = uvloop.run(measure(length, TestDatabases(process.url)))
    Console().print(overview(compared, length))
    return conclude("compare", checks(compared, length), figures=figures(compared), quick=quick)


if __name__ == "__main__":
    sys.exit(main())
