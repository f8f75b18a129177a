"""`orderflow-server demo`: the whole promise in one run, with real processes.

A gateway that lets a tenth of the charges time out, the service on SQLite, and a client that
places orders. In the middle the service is killed (SIGKILL) and started again. In the end every
order is settled, and the orders are compared with the gateway's ledger.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from orderflow.v1 import order_pb2
from orderflow_client import (
    DeadlineExceeded,
    OrderClient,
    OrderflowError,
    Overloaded,
    Unavailable,
    item,
    money,
)
from orderflow_client.resilience.events import PolicyEvent, RetryScheduled
from orderflow_server.free_port import free_port
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.audit import Audit, AuditedOrder, audit
from orderflow_server.payments.simulator.client import fetch_ledger

TIMEOUT_RATE = 0.10
DECLINE_RATE = 0.05
_START_TIMEOUT_S = 20.0
_SETTLE_TIMEOUT_S = 60.0
_RESUBMIT_DELAY_S = 0.2
_POLL_S = 0.25


@dataclass
class _Tally:
    """What happened, from the caller's side."""

    acknowledged: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    retries: int = 0
    resubmissions: int = 0
    payment_retries: int = 0

    def on_event(self, event: PolicyEvent) -> None:
        if isinstance(event, RetryScheduled):
            self.retries += 1


def run_demo(*, orders: int, concurrency: int, seed: int) -> int:
    """Runs the demonstration and returns the exit code: 0 when the audit is clean."""
    console = Console()
    return asyncio.run(_demo(console, orders=orders, concurrency=concurrency, seed=seed))


async def _demo(console: Console, *, orders: int, concurrency: int, seed: int) -> int:
    tally = _Tally()
    with tempfile.TemporaryDirectory(prefix="orderflow-demo-") as scratch_name:
        scratch = Path(scratch_name)
        gateway = f"127.0.0.1:{free_port()}"
        address = f"127.0.0.1:{free_port()}"
        async with (
            _running(scratch / "gateway.log", _gateway_arguments(gateway, seed)),
            _Service(address, gateway, scratch) as service,
            OrderClient(address, listeners=[tally.on_event]) as client,
        ):
            await _until_serving(client)
            console.print(
                f"Gateway on {gateway}: {TIMEOUT_RATE:.0%} of the calls time out, "
                f"{DECLINE_RATE:.0%} of the payments are declined.\n"
                f"Service on {address}, over SQLite. It will be killed in the middle."
            )
            with _progress(console) as progress:
                started_s = time.perf_counter()
                await _place_all(client, service, tally, progress, orders, concurrency, seed)
                placing_s = time.perf_counter() - started_s
                await _until_settled(client, progress, orders)
            stored = [_audited(order) async for order in client.list_orders(page_size=1000)]
            found = audit(
                acknowledged=tally.acknowledged,
                orders=stored,
                ledger=await fetch_ledger(gateway),
            )
            tally.payment_retries = service.payment_retries()
    _report(console, tally, stored, found, placing_s)
    whole = len(tally.acknowledged) == len(stored) == orders
    return 0 if found.clean and whole else 1


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _report(
    console: Console,
    tally: _Tally,
    stored: Sequence[AuditedOrder],
    found: Audit,
    placing_s: float,
) -> None:
    states = Counter(order.state for order in stored)
    percentiles = statistics.quantiles(tally.latencies_ms, n=100, method="inclusive")
    rows = {
        "placed": len(stored),
        "paid": states[OrderState.PAID],
        "declined": states[OrderState.PAYMENT_DECLINED],
        "retries": f"{tally.payment_retries} of payments, {tally.retries} of calls, "
        f"{tally.resubmissions} resubmissions while the service was down",
        "p50 / p99": f"{percentiles[49]:.0f} ms / {percentiles[98]:.0f} ms",
        "orders/s": f"{len(stored) / placing_s:.0f}",
    }
    table = Table(title="Summary", show_header=False, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table)

    verdict = Table(title="Audit: orders vs ledger", show_header=False, title_justify="left")
    for name, ids in {
        "lost": found.lost,
        "double-charged": found.double_charged,
        "paid without a charge": found.unpaid,
        "charged without being paid": found.overcharged,
        "charged for no order": found.unknown,
        "still unsettled": found.unsettled,
    }.items():
        colour = "red" if ids else "green"
        verdict.add_row(name, f"[{colour}]{len(ids)}[/] {' '.join(ids[:3])}")
    console.print(verdict)


async def _place_all(
    client: OrderClient,
    service: _Service,
    tally: _Tally,
    progress: Progress,
    orders: int,
    concurrency: int,
    seed: int,
) -> None:
    """Places all orders, `concurrency` at a time; kills the service when half are placed."""
    bar = progress.add_task("placing", total=orders)
    random = Random(seed)
    drafts = iter([_random_order(random) for _ in range(orders)])

    async def place_some() -> None:
        for draft in drafts:
            await _place(client, tally, draft)
            progress.advance(bar)
            if len(tally.acknowledged) == orders // 2:
                progress.console.print("  SIGKILL to the service, and start it again")
                await service.kill_and_restart()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(place_some())


@dataclass(frozen=True)
class _Draft:
    request_id: str
    customer_id: str
    items: Sequence[order_pb2.OrderItem]


def _random_order(random: Random) -> _Draft:
    return _Draft(
        request_id=str(uuid.UUID(int=random.getrandbits(128), version=4)),
        customer_id=f"customer-{random.randrange(100)}",
        items=[
            item(f"SKU-{random.randrange(1000)}", random.randint(1, 5), money("12.50", "EUR"))
            for _ in range(random.randint(1, 4))
        ],
    )


async def _place(client: OrderClient, tally: _Tally, draft: _Draft) -> None:
    """Places one order, as a careful caller does: the same request_id until there is an answer."""
    started_s = time.perf_counter()
    while True:
        try:
            order = await client.create_order(
                request_id=draft.request_id,
                customer_id=draft.customer_id,
                items=draft.items,
                payment_token="tok_demo",  # noqa: S106  not a password, and not a real token
            )
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            tally.resubmissions += 1
            await asyncio.sleep(error.retry_delay_s or _RESUBMIT_DELAY_S)
        else:
            tally.acknowledged.append(order.id)
            tally.latencies_ms.append((time.perf_counter() - started_s) * 1000)
            return


async def _until_settled(client: OrderClient, progress: Progress, orders: int) -> None:
    """Waits until no order is left for the background worker."""
    bar = progress.add_task("settling", total=orders)
    waiting_states = [order_pb2.ORDER_STATE_PENDING_PAYMENT, order_pb2.ORDER_STATE_REFUNDING]
    async with asyncio.timeout(_SETTLE_TIMEOUT_S):
        while True:
            waiting = [o async for o in client.list_orders(states=waiting_states, page_size=1000)]
            progress.update(bar, completed=orders - len(waiting))
            if not waiting:
                return
            await asyncio.sleep(_POLL_S)


async def _until_serving(client: OrderClient) -> None:
    async with asyncio.timeout(_START_TIMEOUT_S):
        while True:
            try:
                if await client.health() == "SERVING":
                    return
            except OrderflowError:
                # Nothing listens there yet.
                pass
            await asyncio.sleep(0.05)


class _Service:
    """The order service as a process that can be killed."""

    _process: asyncio.subprocess.Process

    def __init__(self, address: str, gateway: str, scratch: Path) -> None:
        self.log = scratch / "service.log"
        self._arguments = [
            "serve",
            *("--address", address, "--ops-address", "127.0.0.1:0"),
            *("--gateway", gateway),
            *("--database", str(scratch / "orders.db")),
            *("--log-format", "json"),
        ]

    async def __aenter__(self) -> Self:
        self._process = await _start(self.log, self._arguments)
        return self

    async def __aexit__(self, *_: object) -> None:
        await _stop(self._process)

    async def kill_and_restart(self) -> None:
        self._process.kill()
        await self._process.wait()
        self._process = await _start(self.log, self._arguments)

    def payment_retries(self) -> int:
        return self.log.read_text().count("attempt failed, retrying")


def _gateway_arguments(target: str, seed: int) -> list[str]:
    host, _, port = target.rpartition(":")
    return [
        "gateway",
        *("--host", host),
        *("--port", port),
        *("--seed", str(seed)),
        *("--timeout-rate", str(TIMEOUT_RATE)),
        *("--decline-rate", str(DECLINE_RATE)),
        *("--latency-ms", "5"),
        *("--latency-sigma", "0.5"),
        *("--log-format", "json"),
    ]


@asynccontextmanager
async def _running(log: Path, arguments: Sequence[str]) -> AsyncIterator[None]:
    process = await _start(log, arguments)
    try:
        yield
    finally:
        await _stop(process)


async def _start(log: Path, arguments: Sequence[str]) -> asyncio.subprocess.Process:
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "orderflow_server"),
            *arguments,
            stdout=output,
            stderr=output,
        )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    await process.wait()


def _audited(order: order_pb2.Order) -> AuditedOrder:
    return AuditedOrder(
        id=order.id,
        state=OrderState(order_pb2.OrderState.Name(order.state).removeprefix("ORDER_STATE_")),
        total=Money(order.total.currency_code, order.total.units, order.total.nanos),
    )
