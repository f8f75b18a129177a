"""What group commit gains on PostgreSQL: the storage engine against one transaction per step.

Both do what CreateOrder does durably, each with a database of its own with the same schema on the
same server: an order with three items and its event is placed, then it becomes PAID, with another
event. The server is as it comes, so an answer means that the order is on the disk. Both serve the
same number of producers at once, each of which takes its next order when the last one is paid.

- engine: `EngineOrderStore.place` and `save`, as the service uses it.
- peer: SQLAlchemy's asyncio engine over asyncpg, with its Core, which is faster than its ORM: one
  transaction inserts the order unless its request id is known, its items and its event; another
  updates the order if its version is the one expected, and inserts the event. Its pool has the
  size that was best for it here.

Rounds alternate, so that what else the machine does meets both. Exits with 1 when the medians are
less than five times apart.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uuid_utils.compat
from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import create_async_engine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from fakes.postgres import TestDatabases, postgres_process
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for

PRODUCERS = 256
ROUNDS = 5
ENGINE_ORDERS = 12_000
PEER_ORDERS = 1_500
PEER_CONNECTIONS = 4
WANTED_RATIO = 5.0

LEASE = timedelta(seconds=30)
Create = Callable[[Order], Awaitable[object]]


def new_orders(count: int) -> list[Order]:
    """Orders to place, made before the clock starts."""
    return [
        Order.place(
            OrderDraft(
                request_id=uuid.uuid4(),
                customer_id=f"customer-{number % 1000}",
                items=tuple(
                    OrderItem(f"sku-{number % 500}-{item}", 2, Money("EUR", 19, 990_000_000))
                    for item in range(3)
                ),
                payment_token="tok_visa",
            ),
            order_id=uuid_utils.compat.uuid7(),
            now=datetime.now(UTC),
        )
        for number in range(count)
    ]


async def orders_per_s(create: Create, orders: list[Order]) -> float:
    async def producer(mine: Iterator[Order]) -> None:
        for order in mine:
            await create(order)

    shared = iter(orders)
    began_s = time.perf_counter()
    await asyncio.gather(*(producer(shared) for _ in range(PRODUCERS)))
    return len(orders) / (time.perf_counter() - began_s)


async def engine_round(url: str) -> float:
    async with open_store_for(DatabaseAddress.parse(url)) as store:

        async def create(order: Order) -> None:
            stored = await store.place(order, lease_until=order.create_time + LEASE)
            await store.save(stored.paid(stored.create_time))

        return await orders_per_s(create, new_orders(ENGINE_ORDERS))


async def peer_round(url: str) -> float:
    engine = create_async_engine(
        url.replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=PEER_CONNECTIONS,
        max_overflow=0,
    )
    metadata = sa.MetaData()
    async with engine.connect() as connection:
        await connection.run_sync(metadata.reflect)
    orders, items, events = (metadata.tables[t] for t in ("orders", "order_items", "events"))
    place_order = (
        insert(orders).on_conflict_do_nothing(index_elements=["request_id"]).returning(orders.c.id)
    )
    save_order = (
        sa.update(orders)
        .where(orders.c.id == sa.bindparam("order"), orders.c.version == sa.bindparam("before"))
        .values({name: sa.bindparam(name) for name in ("state", "version", "update_time")})
        .values(lease_until=None)
    )

    def event(order: Order) -> dict[str, Any]:
        return {
            "order_id": order.id,
            "version": order.version,
            "state": order.state.value,
            "decline_reason": order.decline_reason,
            "time": order.update_time,
        }

    async def create(order: Order) -> None:
        async with engine.begin() as connection:
            placed = await connection.execute(place_order, order_row(order))
            if placed.scalar_one_or_none() is not None:
                await connection.execute(items.insert(), item_rows(order))
                await connection.execute(events.insert(), event(order))
        paid = order.paid(order.create_time)
        async with engine.begin() as connection:
            saved = await connection.execute(
                save_order,
                {
                    "order": paid.id,
                    "before": order.version,
                    "state": paid.state.value,
                    "version": paid.version,
                    "update_time": paid.update_time,
                },
            )
            if saved.rowcount == 1:
                await connection.execute(events.insert(), event(paid))

    try:
        return await orders_per_s(create, new_orders(PEER_ORDERS))
    finally:
        await engine.dispose()


def order_row(order: Order) -> dict[str, Any]:
    return {
        "id": order.id,
        "request_id": order.request_id,
        "customer_id": order.customer_id,
        "currency_code": order.total.currency_code,
        "total_units": order.total.units,
        "total_nanos": order.total.nanos,
        "payment_token": order.payment_token,
        "content_hash": order.content_hash,
        "state": order.state.value,
        "version": order.version,
        "decline_reason": order.decline_reason,
        "create_time": order.create_time,
        "update_time": order.update_time,
        "lease_until": order.create_time + LEASE,
        "traceparent": order.traceparent,
    }


def item_rows(order: Order) -> list[dict[str, Any]]:
    return [
        {
            "order_id": order.id,
            "position": position,
            "sku": item.sku,
            "quantity": item.quantity,
            "price_units": item.unit_price.units,
            "price_nanos": item.unit_price.nanos,
        }
        for position, item in enumerate(order.items)
    ]


async def rates(url: str) -> tuple[list[float], list[float]]:
    """Orders per second of the engine and of the peer, in each round."""
    databases = TestDatabases(url)
    engine: list[float] = []
    peer: list[float] = []
    for _ in range(ROUNDS):
        async with databases.new() as its_own:
            peer.append(await peer_round(its_own))
        async with databases.new() as its_own:
            engine.append(await engine_round(its_own))
    return engine, peer


def main() -> int:
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    with postgres_process({}, within=Path(__file__).parent) as process:
        engine, peer = asyncio.run(rates(process.url))
    ratio = statistics.median(engine) / statistics.median(peer)

    table = Table(title=f"Orders placed and paid per second, {PRODUCERS} producers")
    for column in ("", "median", "lowest", "highest"):
        table.add_column(column, justify="right" if column else "left")
    for name, some in (("engine", engine), ("one transaction per step", peer)):
        table.add_row(
            name, *(f"{rate:,.0f}" for rate in (statistics.median(some), min(some), max(some)))
        )
    console = Console()
    console.print(table)
    console.print(f"ratio {ratio:.1f}, wanted {WANTED_RATIO:.0f}")
    return 0 if ratio >= WANTED_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
