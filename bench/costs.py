"""What one order costs each process: the server, PostgreSQL and NATS.

The real server over PostgreSQL, with events to NATS and spans switched off, and a payment simulator
in a process of its own. Orders with three items are placed, paid and published; what each process
has used of the CPU is read before and after. That is little affected by what else the machine does,
so these are the figures to plan with: see `docs/scaling.md`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.load import ITEMS
from bench.process import children_of, family_cpu_s, gateway, parent_of
from fakes.nats import nats_server
from fakes.postgres import postgres_process
from orderflow_client import OrderClient, Overloaded
from processes import free_port, server_process

ORDERS = 5_000
CALLERS = 32
WARM_UP = 1_000


def child_named(name: str) -> int:
    """The process of this one's that runs a program."""
    mine = children_of(os.getpid())
    [pid] = [pid for pid in mine if Path(f"/proc/{pid}/comm").read_text().strip() == name]
    return pid


async def place(client: OrderClient, count: int) -> None:
    async def caller() -> None:
        for _ in range(count // CALLERS):
            request_id = str(uuid4())
            while True:
                try:
                    await client.create_order(
                        request_id=request_id,
                        customer_id="alice",
                        items=ITEMS,
                        payment_token="tok_visa",
                        timeout_s=30,
                    )
                except Overloaded as error:
                    await asyncio.sleep(error.retry_delay_s or 0.1)
                else:
                    break

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def published(connection: asyncpg.Connection) -> None:
    waiting = "SELECT count(*) FROM events WHERE NOT published"
    while await connection.fetchval(waiting):  # noqa: ASYNC110  it sets no event of ours
        await asyncio.sleep(0.1)


async def measure(database: str, directory: Path) -> None:
    port = free_port()
    async with (
        gateway(port, directory / "log"),
        nats_server(directory) as nats,
        server_process(
            directory,
            arguments=["--database", database, "--gateway", f"127.0.0.1:{port}"],
            environment={"ORDERFLOW_NATS": nats.url},
        ) as server,
        OrderClient(server.address) as client,
    ):
        connection = await asyncpg.connect(database)
        pids = {
            "server": server.process.pid,
            "PostgreSQL": parent_of(connection.get_server_pid()),
            "NATS": child_named("nats-server"),
        }
        await place(client, WARM_UP)
        await published(connection)
        before = {name: family_cpu_s(pid) for name, pid in pids.items()}
        [(stored, log)] = await connection.fetch(STATE)
        began_s = time.perf_counter()
        await place(client, ORDERS)
        took_s = time.perf_counter() - began_s
        await published(connection)
        used_s = {name: family_cpu_s(pid) - before[name] for name, pid in pids.items()}
        [(stored_after, log_after)] = await connection.fetch(STATE)
        await connection.close()
    orders = stored_after - stored
    table = Table(title=f"{orders:,} orders, {CALLERS} callers")
    table.add_column("")
    table.add_column("an order", justify="right")
    for name, used in used_s.items():
        table.add_row(f"CPU of {name}", f"{used / orders * 1e6:,.0f} us")
    table.add_row("write-ahead log", f"{(log_after - log) / orders:,.0f} bytes")
    console = Console()
    console.print(table)
    console.print(f"{orders / took_s:,.0f} orders/s, callers and all on {os.cpu_count()} cores")


STATE = "SELECT (SELECT count(*) FROM orders), pg_current_wal_lsn() - '0/0'::pg_lsn"


def main() -> None:
    here = Path(__file__).parent
    with (
        postgres_process({}, within=here) as postgres,
        tempfile.TemporaryDirectory(dir=here, prefix=".bench-") as directory,
    ):
        asyncio.run(measure(postgres.url, Path(directory)))


if __name__ == "__main__":
    main()
