"""What a million stored orders cost: the same calls over 10 000 orders and over 1 000 000.

The store's part of each call, one at a time, as its callers see it:

- Create: an order with three items is placed, and becomes PAID.
- Get: any order, old or new.
- the first page of the list, newest first, and the 1000th, of ten orders each.

For PostgreSQL both databases are on one server, for SQLite each is a file. Both have the service's
schema, are filled with SQL in the shape in which the service leaves orders, and are at rest when
the measuring begins. Then the calls alternate between the two, so that what else the machine does
meets both. Both are as they come, so an answer to Create means that the order is on the disk.

Prints medians, and what an order takes on the disk. Exits with 1 when a median over a million is
more than 1.25 times the one over ten thousand.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
from rich.console import Console
from rich.table import Table

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.checks import Check, conclude
from bench.placing import LEASE, new_order
from fakes.postgres import TestDatabases, postgres_process
from orderflow_server.orders.order import Order, OrderQuery
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for, upgrade
from orderflow_server.storage.store import EngineOrderStore

FEW = 10_000
MANY = 1_000_000
ORDERS_PER_CUSTOMER = 10
PAGE_SIZE = 10
PAGES = 1000
ROUNDS = 2000
WARM_UP = 200
"""Rounds that are not counted: connections, statements and caches are made in them."""
WANTED_RATIO = 1.25

# Every tenth was cancelled, the others are paid; each was a second after the one before.
FILL_POSTGRES = (
    """
    INSERT INTO orders (
        id, request_id, customer_id, currency_code, total_units, total_nanos, payment_token,
        content_hash, state, version, decline_reason, create_time, update_time, traceparent
    )
    SELECT
        id, gen_random_uuid(), 'customer-' || number % ($1::int / $2::int), 'EUR', 119, 940000000,
        'tok_visa', sha256(uuid_send(id)), CASE number % 10 WHEN 0 THEN 'CANCELLED' ELSE 'PAID' END,
        CASE number % 10 WHEN 0 THEN 4 ELSE 2 END, '', uuid_extract_timestamp(id),
        uuid_extract_timestamp(id),
        '00-' || encode(uuid_send(gen_random_uuid()), 'hex') || '-b7ad6b7169203331-01'
    FROM (
        SELECT number, uuidv7((number - $1::int) * interval '1 second') AS id
        FROM generate_series(1, $1::int) AS number
    ) AS each
    """,
    """
    INSERT INTO order_items (order_id, position, sku, quantity, price_units, price_nanos)
    SELECT id, position, 'sku-' || version || '-' || position, 2, 19, 990000000
    FROM orders, generate_series(0, 2) AS position ORDER BY id, position
    """,
    """
    INSERT INTO events (order_id, version, state, decline_reason, time, published)
    SELECT id, number, (ARRAY['PENDING_PAYMENT', 'PAID', 'REFUNDING', 'CANCELLED'])[number], '',
        create_time, true
    FROM orders, generate_series(1, version) AS number ORDER BY id, number
    """,
)

_HEX = "lower(hex(randomblob({})))"
FILL_SQLITE = (
    # A UUIDv7: the milliseconds in twelve digits, its version, its variant, and the rest at random.
    f"""
    INSERT INTO orders (
        id, request_id, customer_id, currency_code, total_units, total_nanos, payment_token,
        content_hash, state, version, decline_reason, create_time, update_time, traceparent
    )
    WITH RECURSIVE numbers (number) AS (
        SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < :count
    ), each AS (
        SELECT
            number, unixepoch() - :count + number AS second,
            printf('%012x', (unixepoch() - :count + number) * 1000) AS digits
        FROM numbers
    )
    SELECT
        substr(digits, 1, 8) || '-' || substr(digits, 9) || '-7' || substr({_HEX.format(2)}, 2)
            || '-8' || substr({_HEX.format(2)}, 2) || '-' || {_HEX.format(6)},
        {_HEX.format(4)} || '-' || {_HEX.format(2)} || '-4' || substr({_HEX.format(2)}, 2)
            || '-8' || substr({_HEX.format(2)}, 2) || '-' || {_HEX.format(6)},
        'customer-' || (number % (:count / :orders_per_customer)), 'EUR', 119, 940000000,
        'tok_visa', randomblob(32), CASE number % 10 WHEN 0 THEN 'CANCELLED' ELSE 'PAID' END,
        CASE number % 10 WHEN 0 THEN 4 ELSE 2 END, '', second * 1000000, second * 1000000,
        '00-' || {_HEX.format(16)} || '-b7ad6b7169203331-01'
    FROM each
    """,
    """
    INSERT INTO order_items (order_id, position, sku, quantity, price_units, price_nanos)
    WITH positions (position) AS (VALUES (0), (1), (2))
    SELECT id, position, 'sku-' || version || '-' || position, 2, 19, 990000000
    FROM orders, positions ORDER BY id, position
    """,
    """
    INSERT INTO events (order_id, version, state, decline_reason, time, published)
    WITH states (number, state) AS (
        VALUES (1, 'PENDING_PAYMENT'), (2, 'PAID'), (3, 'REFUNDING'), (4, 'CANCELLED')
    )
    SELECT id, number, states.state, '', create_time, 1
    FROM orders JOIN states ON number <= version ORDER BY id, number
    """,
)


@dataclass(frozen=True)
class Filled:
    """A database with orders in it.

    Attributes:
        bytes: What it takes on the disk, indexes included.
    """

    address: DatabaseAddress
    orders: int
    bytes: int


async def fill_postgres(url: str, count: int) -> Filled:
    connection = await asyncpg.connect(url)
    try:
        # No look-up of each row's order: all of them are there.
        await connection.execute("SET session_replication_role = replica")
        orders, items, events = FILL_POSTGRES
        await connection.execute(orders, count, ORDERS_PER_CUSTOMER)
        await connection.execute(items)
        await connection.execute(events)
        # So that neither autovacuum nor a checkpoint has anything to do while it is measured.
        await connection.execute("VACUUM (FREEZE, ANALYZE)")
        await connection.execute("CHECKPOINT")
        size = await connection.fetchval(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relname IN ('orders', 'order_items', 'events')"
        )
    finally:
        await connection.close()
    return Filled(DatabaseAddress.parse(url), count, int(size))


async def fill_sqlite(path: Path, count: int) -> Filled:
    await upgrade(DatabaseAddress(path=path))
    size = await asyncio.to_thread(_fill_file, path, count)
    return Filled(DatabaseAddress(path=path), count, size)


def _fill_file(path: Path, count: int) -> int:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = OFF")  # until it is full
        file.execute("PRAGMA cache_size = -524288")
        orders, items, events = FILL_SQLITE
        file.execute("BEGIN")
        file.execute(orders, {"count": count, "orders_per_customer": ORDERS_PER_CUSTOMER})
        file.execute(items)
        file.execute(events)
        file.execute("COMMIT")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.execute("PRAGMA optimize")
    return path.stat().st_size


class Subject:
    """A store to be measured, with what its calls need to know of it.

    Args:
        store: Filled, one order a second.
        rng: Chooses which orders are read, and whose are placed.
    """

    def __init__(self, store: EngineOrderStore, orders: int, rng: random.Random) -> None:
        self._store = store
        self._orders = orders
        self._rng = rng
        self._ids: list[UUID] = []
        self._page_before_last: UUID | None = None

    async def look_around(self) -> None:
        """Walks to the 1000th page as a caller does, and notes orders of any age."""
        before: UUID | None = None
        for _ in range(PAGES - 1):
            before = (await self._page(before))[-1].id
        self._page_before_last = before
        [newest] = await self._store.list(OrderQuery(limit=1))
        milliseconds = newest.id.int >> 80
        for _ in range(WARM_UP + ROUNDS):
            age_s = self._rng.random() * (self._orders - 1)
            some_id = UUID(int=milliseconds - round(age_s * 1000) << 80)
            [order] = await self._store.list(OrderQuery(limit=1, before=some_id))
            self._ids.append(order.id)

    async def create(self) -> None:
        customers = self._orders // ORDERS_PER_CUSTOMER
        order = new_order(f"customer-{self._rng.randrange(customers)}")
        stored = await self._store.place(order, lease=LEASE)
        await self._store.save(stored.paid(stored.create_time))

    async def get(self) -> None:
        await self._store.get(self._ids.pop())

    async def first_page(self) -> None:
        await self._page(None)

    async def last_page(self) -> None:
        await self._page(self._page_before_last)

    async def _page(self, before: UUID | None) -> Sequence[Order]:
        return await self._store.list(OrderQuery(limit=PAGE_SIZE, before=before))


CALLS: dict[str, Callable[[Subject], Awaitable[None]]] = {
    "Create": Subject.create,
    "Get": Subject.get,
    "first page": Subject.first_page,
    f"{PAGES}th page": Subject.last_page,
}


async def medians_s(few: Filled, many: Filled) -> dict[str, tuple[float, float]]:
    """Of each call, over the few and over the many."""
    took_s: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in CALLS}
    rng = random.Random(1)
    async with AsyncExitStack() as stack:
        subjects = []
        for filled in (few, many):
            store = await stack.enter_async_context(open_store_for(filled.address))
            subjects.append(Subject(store, filled.orders, rng))
            await subjects[-1].look_around()
        for number in range(WARM_UP + ROUNDS):
            for name, call in CALLS.items():
                for which in rng.sample((0, 1), 2):
                    began_s = time.perf_counter()
                    await call(subjects[which])
                    if number >= WARM_UP:
                        took_s[name][which].append(time.perf_counter() - began_s)
    return {
        name: (statistics.median(of_few), statistics.median(of_many))
        for name, (of_few, of_many) in took_s.items()
    }


async def over_postgres(url: str) -> Check:
    databases = TestDatabases(url)
    async with databases.new() as one, databases.new() as other:
        few, many = await fill_postgres(one, FEW), await fill_postgres(other, MANY)
        return report("PostgreSQL", many, await medians_s(few, many))


async def over_sqlite(directory: Path) -> Check:
    few = await fill_sqlite(directory / "few.db", FEW)
    many = await fill_sqlite(directory / "many.db", MANY)
    return report("SQLite", many, await medians_s(few, many))


def report(database: str, many: Filled, medians: Mapping[str, tuple[float, float]]) -> Check:
    """Prints what was found; returns the worst of it."""
    table = Table(title=f"{database}: median, us")
    for column in ("", f"{FEW:,} orders", f"{MANY:,} orders", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    ratios = []
    for name, (few_s, many_s) in medians.items():
        ratios.append(many_s / few_s)
        table.add_row(name, f"{few_s * 1e6:,.0f}", f"{many_s * 1e6:,.0f}", f"{ratios[-1]:.2f}")
    console = Console()
    console.print(table)
    console.print(f"on the disk {many.bytes / many.orders:,.0f} bytes an order, with its indexes\n")
    return Check(
        name=f"{database}: a call over {MANY:,} orders, of over {FEW:,}",
        measured=max(ratios),
        at_most=WANTED_RATIO,
    )


def main() -> int:
    # Beside this file, not in a temporary directory: that may be memory, where a commit is free.
    here = Path(__file__).parent
    with postgres_process({}, within=here) as process:
        found = [asyncio.run(over_postgres(process.url))]
    with tempfile.TemporaryDirectory(dir=here, prefix=".bench-") as directory:
        found.append(asyncio.run(over_sqlite(Path(directory))))
    return conclude("growth", found)


if __name__ == "__main__":
    sys.exit(main())
