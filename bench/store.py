"""What group commit gains: the storage engine against one transaction per order.

Both write the same thing to a file of their own with the same schema: an order with three items
and its event. Both use WAL and synchronous=FULL, so that an answer means that the order is on the
disk, and both serve the same number of producers at once, each of which places its next order
when it has the answer to the last.

- engine: `EngineOrderStore.place`, as the service uses it.
- peer: aiosqlite on one connection, which an asyncio.Lock gives to one producer at a time:
  BEGIN IMMEDIATE, the insert of the order, one executemany for its items, the insert of the event,
  COMMIT. That is how a service without an engine would do it, with nothing slowed down; more
  connections would only wait for SQLite's one write lock.

Rounds alternate, so that what else the machine does meets both. Exits with 1 when the medians are
less than ten times apart.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import aiosqlite

sys.path.append(str(Path(__file__).parent.parent))

from bench.placing import LEASE, PRODUCERS, new_orders, orders_per_s, report
from orderflow_server.orders.order import Order
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for, upgrade
from orderflow_server.storage.sqlite import writes
from orderflow_server.storage.sqlite.bulk import Bulk
from orderflow_server.storage.sqlite.rows import event_row, item_rows, micros, order_row

ROUNDS = 5
ENGINE_ORDERS = 12_000
PEER_ORDERS = 1_500
WANTED_RATIO = 10.0


async def engine_round(path: Path) -> float:
    async with open_store_for(DatabaseAddress(path=path)) as store:
        return await orders_per_s(
            lambda order: store.place(order, lease=LEASE),
            new_orders(ENGINE_ORDERS),
        )


def insert(table: str, bulk: Bulk) -> str:
    """The plain statement for one row."""
    values = ", ".join("?" * len(bulk.columns))
    return f"INSERT INTO {table} ({', '.join(bulk.columns)}) VALUES ({values})"


async def peer_round(path: Path) -> float:
    await upgrade(DatabaseAddress(path=path))
    lock = asyncio.Lock()
    insert_order = insert("orders", writes.INSERT_ORDERS)
    insert_item = insert("order_items", writes.INSERT_ITEMS)
    insert_event = insert("events", writes.INSERT_EVENTS)
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        await connection.execute("PRAGMA synchronous = FULL")
        await connection.execute("PRAGMA foreign_keys = ON")

        async def place(order: Order) -> None:
            order_id = str(order.id)
            async with lock:
                await connection.execute("BEGIN IMMEDIATE")
                await connection.execute(
                    insert_order, order_row(order, order_id, micros(order.create_time), LEASE)
                )
                await connection.executemany(insert_item, item_rows(order, order_id))
                await connection.execute(insert_event, event_row(order, order_id))
                await connection.execute("COMMIT")

        return await orders_per_s(place, new_orders(PEER_ORDERS))


async def main() -> int:
    engine: list[float] = []
    peer: list[float] = []
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent, prefix=".bench-") as directory:
        for number in range(ROUNDS):
            peer.append(await peer_round(Path(directory, f"peer-{number}.db")))
            engine.append(await engine_round(Path(directory, f"engine-{number}.db")))
    return report(
        "store",
        f"Orders placed per second, {PRODUCERS} producers, {ROUNDS} rounds",
        {"engine": engine, "one transaction per order": peer},
        wanted=WANTED_RATIO,
    )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
