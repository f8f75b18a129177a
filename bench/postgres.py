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
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import create_async_engine

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.placing import LEASE, PRODUCERS, new_orders, orders_per_s, report
from fakes.postgres import TestDatabases, postgres_process
from orderflow_server.orders.order import Order
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for

ROUNDS = 5
ENGINE_ORDERS = 12_000
PEER_ORDERS = 1_500
PEER_CONNECTIONS = 4
WANTED_RATIO = 5.0


async def engine_round(url: str) -> float:
    async with open_store_for(DatabaseAddress.parse(url)) as store:

        async def create(order: Order) -> None:
            stored = await store.place(order, lease=LEASE)
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
        "awaiting_since": order.create_time,
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
    written_bytes = 0
    for _ in range(ROUNDS):
        async with databases.new() as its_own:
            peer.append(await peer_round(its_own))
        async with databases.new() as its_own:
            before = await logged_bytes(databases)
            engine.append(await engine_round(its_own))
            written_bytes += await logged_bytes(databases) - before
    print(f"engine: {written_bytes / ROUNDS / ENGINE_ORDERS:,.0f} bytes of WAL an order")
    return engine, peer


async def logged_bytes(databases: TestDatabases) -> int:
    """How much the server has written to its write-ahead log so far."""
    [row] = await databases.run("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")
    return int(row[0])


def main() -> int:
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    with postgres_process({}, within=Path(__file__).parent) as process:
        engine, peer = asyncio.run(rates(process.url))
    return report(
        "postgres",
        f"Orders placed and paid per second, {PRODUCERS} producers",
        {"engine": engine, "one transaction per step": peer},
        wanted=WANTED_RATIO,
    )


if __name__ == "__main__":
    sys.exit(main())
