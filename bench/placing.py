"""What the benchmarks of the storage have in common: orders, who places them, and the table."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import uuid_utils.compat
from rich.console import Console
from rich.table import Table

from bench.checks import Check, conclude, ratio
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem

PRODUCERS = 256
LEASE = timedelta(seconds=30)
Create = Callable[[Order], Awaitable[object]]


def new_order(customer_id: str, number: int = 0) -> Order:
    """An order with three items; the number chooses which."""
    return Order.place(
        OrderDraft(
            request_id=uuid.uuid4(),
            customer_id=customer_id,
            items=tuple(
                OrderItem(f"sku-{number % 500}-{item}", 2, Money("EUR", 19, 990_000_000))
                for item in range(3)
            ),
            payment_token="tok_visa",
        ),
        order_id=uuid_utils.compat.uuid7(),
        now=datetime.now(UTC),
    )


def new_orders(count: int) -> list[Order]:
    """Orders to place, made before the clock starts."""
    return [new_order(f"customer-{number % 1000}", number) for number in range(count)]


async def orders_per_s(create: Create, orders: list[Order]) -> float:
    """How many are created a second by producers that each wait for one before the next."""

    async def producer(mine: Iterator[Order]) -> None:
        for order in mine:
            await create(order)

    shared = iter(orders)
    began_s = time.perf_counter()
    await asyncio.gather(*(producer(shared) for _ in range(PRODUCERS)))
    return len(orders) / (time.perf_counter() - began_s)


def report(
    benchmark: str, title: str, rates: Mapping[str, Sequence[float]], *, wanted: float
) -> int:
    """Prints the rates of the two, the engine's first; returns the exit code.

    Args:
        benchmark: Its script.
        title: What was measured.
        rates: Of each round, by name.
        wanted: The least that the first must be of the second.
    """
    table = Table(title=title)
    for column in ("", "median", "lowest", "highest"):
        table.add_column(column, justify="right" if column else "left")
    for name, some in rates.items():
        table.add_row(
            name, *(f"{rate:,.0f}" for rate in (statistics.median(some), min(some), max(some)))
        )
    Console().print(table)
    (_, engine), (other, peer) = rates.items()
    check = Check(
        name=f"{benchmark}: engine, of {other}", measured=ratio(engine, peer), at_least=wanted
    )
    return conclude(benchmark, [check], figures=rates)
