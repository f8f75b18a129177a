"""What the statements cost: one trip for a batch, and the same however many orders there are."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from msgspec import structs

from fakes.orders import LEASE_FOR, NOW, new_order
from orderflow_server.orders.order import OrderQuery, OrderState
from orderflow_server.orders.ports import LONGEST_LEASE, REPEATED_ATTEMPTS
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import (
    Command,
    Defer,
    LeaseDue,
    MarkPublished,
    Place,
    Refuse,
    Save,
)
from orderflow_server.storage.postgres import PostgresOptions, reads, statements
from orderflow_server.storage.postgres.connecting import Connector
from orderflow_server.storage.postgres.writes import write_batch

MIDDLE = NOW + timedelta(days=1)
"""When the orders of Ada are created and paid; those of Bob before and after wait for it."""
WINDOW = OrderQuery(
    limit=10,
    created_after=MIDDLE + timedelta(seconds=3),
    created_before=MIDDLE + timedelta(seconds=8),
)
STATEMENTS = {
    name: text.strip()
    for name, text in [*vars(statements).items(), *vars(reads).items()]
    if isinstance(text, str)
    and text.strip().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE"))
}


@pytest.fixture
async def own(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection set up as the store's are."""
    connector = Connector(DatabaseAddress.parse(url), PostgresOptions())
    connection = await connector.connect()
    yield connection
    await connection.close()


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def scans(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a plan reads a table."""
    return [node for node in nodes(plan) if "Relation Name" in node and "Scan" in node["Node Type"]]


async def page_plan(connection: asyncpg.Connection, query: OrderQuery) -> dict[str, Any]:
    sql, parameters = reads.page_sql(query)
    explained = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *parameters)
    plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
    return plan


def rows_read(plan: dict[str, Any]) -> Any:
    """How many rows of the orders a plan looked at."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in scans(plan)
        if node["Relation Name"] == "orders"
    )


@pytest.mark.parametrize("name", STATEMENTS)
async def test_no_statement_reads_a_table_from_end_to_end(
    own: asyncpg.Connection, name: str
) -> None:
    count = len((await own.prepare(STATEMENTS[name])).get_parameters())
    await own.execute(f"PREPARE this AS {STATEMENTS[name]}")
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    explained = await own.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE this {values}")
    for node in scans(json.loads(explained)[0]["Plan"]):
        assert node["Node Type"] in {"Index Scan", "Index Only Scan"}, node


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(OrderQuery(limit=10), id="all"),
        pytest.param(OrderQuery(limit=10, customer_id="ada"), id="customer"),
        pytest.param(OrderQuery(limit=10, states=[OrderState.PAID]), id="state"),
        pytest.param(OrderQuery(limit=10, states=list(OrderState)), id="states"),
        pytest.param(OrderQuery(limit=10, states=[OrderState.CANCELLED]), id="no such state"),
        pytest.param(OrderQuery(limit=10, customer_id="cyd"), id="no such customer"),
        pytest.param(
            OrderQuery(limit=10, customer_id="ada", states=[OrderState.PAID]),
            id="customer and state",
        ),
        pytest.param(WINDOW, id="times"),
        pytest.param(structs.replace(WINDOW, states=list(OrderState)), id="times and states"),
    ],
)
async def test_a_page_reads_no_more_rows_wherever_it_is_and_however_many_orders_there_are(
    own: asyncpg.Connection, query: OrderQuery
) -> None:
    async def place_around(count: int) -> None:
        """Places so many of Bob's both before and after Ada's."""
        for first, begin in ((0, NOW), (100_000, MIDDLE + timedelta(days=1))):
            numbers = range(first, first + count)
            await write_batch(
                own,
                [
                    Place(
                        new_order(n, customer_id="bob", now=begin + timedelta(seconds=n)), LEASE_FOR
                    )
                    for n in numbers
                ],
            )

    adas = [new_order(50_000 + n, now=MIDDLE + timedelta(seconds=n)) for n in range(20)]
    await write_batch(own, [Place(order, LEASE_FOR) for order in adas])
    await write_batch(own, [Save(order.paid(MIDDLE), None) for order in adas])
    await place_around(800)
    await own.execute("ANALYZE")
    for before in (None, adas[15].id, adas[12].id):
        plan = await page_plan(own, structs.replace(query, before=before))
        walks = max(1, len(query.states) if query.customer_id is None else 1)
        assert rows_read(plan) <= walks * query.limit


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (reads.UNPUBLISHED, (10, [])),
        (reads.WAITING_EVENTS, (None,)),
        (reads.REFUSED_EVENTS, (None, 10)),
    ],
    ids=["unpublished", "waiting", "refused"],
)
async def test_what_the_relay_reads_does_not_grow_with_published_events(
    own: asyncpg.Connection, sql: str, parameters: tuple[Any, ...], *, refused: bool
) -> None:
    orders = [new_order(number) for number in range(1000)]
    await write_batch(own, [Place(order, LEASE_FOR) for order in orders])
    await write_batch(own, [Save(order.paid(NOW), None) for order in orders])
    sequences = [n for (n,) in await own.fetch("SELECT sequence FROM events ORDER BY sequence")]
    await write_batch(own, [MarkPublished(sequences[:-20])])
    if refused:
        await write_batch(own, [Refuse({sequences[-20]: "too large", sequences[-10]: "too large"})])
    for statistics in (False, True):
        if statistics:
            await own.execute("ANALYZE")
        explained = await own.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", *parameters)
        read = [
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in scans(json.loads(explained)[0]["Plan"])
            if node["Relation Name"] == "events"
        ]
        assert sum(read) <= 100


async def test_a_batch_takes_a_handful_of_trips_however_large(own: asyncpg.Connection) -> None:
    # Once for each connection, asyncpg asks what the types are.
    for command in (Place(new_order(1000), LEASE_FOR), Save(new_order(1000).paid(NOW), None)):
        await write_batch(own, [command])
    await write_batch(own, [LeaseDue(LEASE_FOR, 1), Defer(new_order(1000).id, LEASE_FOR)])
    await write_batch(own, [Place(new_order(1001, request=1000), LEASE_FOR)])
    statements: list[str] = []
    own.add_query_logger(lambda query: statements.append(query.query))
    orders = [new_order(number) for number in range(255)]

    async def trips(batch: list[Command[Any]]) -> int:
        statements.clear()
        await write_batch(own, batch)
        await asyncio.sleep(0)  # the logger is called by the event loop
        return len(statements)

    assert await trips([Place(order, timedelta(0)) for order in orders]) == 1
    saves: list[Command[Any]] = [Save(order.paid(NOW), None) for order in orders[:100]]
    assert await trips(saves) == 1
    assert await trips([Place(order, timedelta(0)) for order in orders]) == 2, "replays are read"
    mixed: list[Command[Any]] = [Place(new_order(n), timedelta(0)) for n in range(300, 400)]
    mixed += [Save(order.paid(NOW), None) for order in orders[100:]]
    assert await trips(mixed) == 1
    twice = [Save(order.cancelled(NOW), None) for order in orders[100:]]
    # Begin, place, read the replay, lock, save, save, commit.
    assert await trips([*mixed[:1], *mixed[100:], *twice]) == 7
    mixed = [Defer(order.id, LEASE_FOR) for order in orders]
    mixed += [LeaseDue(LEASE_FOR, 100)]
    assert await trips(mixed) <= 6
    assert await trips([LeaseDue(LEASE_FOR, 100)]) == 1


async def test_leasing_walks_an_index_to_the_orders_it_takes_and_no_further(
    own: asyncpg.Connection,
) -> None:
    """However many are leased, settled or repeated, and whatever was left under a wrong clock."""
    await write_batch(own, [Place(new_order(n), LONGEST_LEASE) for n in range(1000)])
    await write_batch(own, [Save(new_order(n).paid(NOW), None) for n in range(500)])
    shift = "UPDATE orders SET lease_until = lease_until + $1::interval, lease_attempts = $2"
    ids = [new_order(n).id for n in range(500, 1000)]
    for of, by, attempts in (
        (ids[:100], timedelta(hours=-1), 0),
        (ids[100:200], timedelta(days=1), 0),
        (ids[200:300], timedelta(hours=-1), REPEATED_ATTEMPTS),
        (ids[300:400], timedelta(days=1), REPEATED_ATTEMPTS),
    ):
        await own.execute(f"{shift} WHERE id = ANY($3)", by, attempts, of)
    await own.execute("ANALYZE")
    lease = (None, timedelta(0))
    for limit, repeated, most in ((4, 0, 4), (4, 4, 4), (110, 3, 110), (300, 150, 300)):
        transaction = own.transaction()
        await transaction.start()
        explained = await own.fetchval(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statements.LEASE_DUE}", *lease, limit, repeated
        )
        await transaction.rollback()
        plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
        walks = [
            node
            for node in scans(plan)
            if node["Index Name"] in ("orders_by_lease", "orders_repeated_by_lease")
        ]
        assert len(walks) == 4
        assert [node["Index Name"] for node in walks[2:]] == ["orders_repeated_by_lease"] * 2
        read = sum(node["Actual Rows"] * node["Actual Loops"] for node in walks)
        assert read <= most
