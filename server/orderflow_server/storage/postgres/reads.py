"""Orders, pages, changes and the backlog, each in one statement."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.ports import (
    Backlog,
    OutboxEvent,
    ParkedOrder,
    RefusedEvent,
    Waiting,
)
from orderflow_server.storage.postgres.rows import (
    CHANGE_COLUMNS,
    ORDER_COLUMNS,
    change_from,
    event_from,
    order_from,
    refused_from,
    text,
)
from orderflow_server.storage.postgres.statements import NOW, PARKED, REFUSED

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# S608 below: what is put together are constants of this package; values are parameters.
GET = f"SELECT {ORDER_COLUMNS} FROM orders AS o WHERE o.id = $1"  # noqa: S608 - see above
_CHANGES = f"""
SELECT {CHANGE_COLUMNS} FROM events AS e WHERE e.order_id = $1 AND e.version > $2 ORDER BY e.version
"""  # noqa: S608 - see above
PARKED_ORDERS = f"""
SELECT
    {ORDER_COLUMNS}, greatest({NOW} - o.parked_time, interval '0'), o.parked_reason,
    o.lease_attempts
FROM orders AS o WHERE {PARKED} AND starts_with(parked_reason, $3)
ORDER BY parked_time, id LIMIT $2
"""  # noqa: S608 - see above
BACKLOG = f"""
SELECT state, count(*), greatest({NOW} - min(coalesce(awaiting_since, update_time)), interval '0')
FROM orders WHERE lease_until IS NOT NULL GROUP BY state
UNION ALL
SELECT NULL, count(*), NULL FROM orders WHERE {PARKED}
"""  # noqa: S608 - see above
# A refused event is not ready, nor are later versions of its order.
_READY = """
NOT e.published AND e.refused_time IS NULL AND NOT EXISTS (
    SELECT FROM events AS r WHERE r.order_id = e.order_id AND r.version < e.version
    AND r.refused_time IS NOT NULL AND NOT r.published
)
"""
# Counting what is not ready, mostly nothing, costs less than checking each event.
WAITING_EVENTS = f"""
WITH refused AS MATERIALIZED (
    SELECT order_id, min(version) AS version, count(*) FROM events WHERE {REFUSED}
    GROUP BY order_id
)
SELECT
    (SELECT count(*) FROM events WHERE NOT published) - (
        SELECT count(*) FROM refused AS r
        JOIN events AS e ON e.order_id = r.order_id AND e.version >= r.version
        WHERE NOT e.published
    ),
    (
        SELECT greatest({NOW} - e.time, interval '0')
        FROM events AS e WHERE {_READY} ORDER BY e.sequence LIMIT 1
    ),
    (SELECT coalesce(sum(count), 0)::bigint FROM refused)
"""  # noqa: S608 - see above
UNPUBLISHED = f"""
SELECT e.sequence, {CHANGE_COLUMNS}, {ORDER_COLUMNS}
FROM (
    SELECT * FROM events AS e WHERE {_READY} AND e.order_id <> ALL($2::uuid[])
    ORDER BY e.sequence LIMIT $1
) AS e
JOIN orders AS o ON o.id = e.order_id ORDER BY e.sequence
"""  # noqa: S608 - see above
REFUSED_EVENTS = f"""
WITH refused AS MATERIALIZED (SELECT * FROM events WHERE {REFUSED})
SELECT
    sequence, order_id, version, state, refused_reason,
    greatest({NOW} - refused_time, interval '0')
FROM refused ORDER BY sequence LIMIT $2
"""  # noqa: S608 - see above


async def get_order(connection: Connection, order_id: UUID) -> Order | None:
    values = await connection.fetchrow(GET, order_id)
    return None if values is None else order_from(values)


async def list_changes(
    connection: Connection, order_id: UUID, after_version: int
) -> list[OrderChange]:
    found = await connection.fetch(_CHANGES, order_id, after_version)
    return [change_from(values) for values in found]


async def list_parked(
    connection: Connection, limit: int, reason: str, *, now: datetime | None
) -> list[ParkedOrder]:
    return [
        ParkedOrder(order_from(order), age, reason, attempts)
        for *order, age, reason, attempts in await connection.fetch(
            PARKED_ORDERS, now, limit, text(reason)
        )
    ]


async def read_backlog(connection: Connection, *, events: bool, now: datetime | None) -> Backlog:
    rows = await connection.fetch(BACKLOG, now)
    orders = {OrderState(state): Waiting(count, age) for state, count, age in rows if state}
    [parked] = [count for state, count, _ in rows if state is None]
    [(count, age, refused)] = (
        await connection.fetch(WAITING_EVENTS, now) if events else [(0, None, 0)]
    )
    return Backlog(orders=orders, events=Waiting(count, age), parked=parked, refused=refused)


async def list_unpublished(
    connection: Connection, limit: int, without: Collection[UUID]
) -> list[OutboxEvent]:
    found = await connection.fetch(UNPUBLISHED, limit, list(without))
    return [event_from(*values) for values in found]


async def list_refused(
    connection: Connection, limit: int, *, now: datetime | None
) -> list[RefusedEvent]:
    found = await connection.fetch(REFUSED_EVENTS, now, limit)
    return [refused_from(*values) for values in found]


async def ping(connection: Connection) -> None:
    await connection.fetch("SELECT FROM orders LIMIT 1")


async def list_orders(connection: Connection, query: OrderQuery) -> list[Order]:
    sql, parameters = page_sql(query)
    return [order_from(values) for values in await connection.fetch(sql, *parameters)]


def page_sql(query: OrderQuery) -> tuple[str, Sequence[Any]]:
    """A statement for one page, and its parameters.

    Whatever the filters, an index is read backwards from where the page begins: what a page
    costs does not depend on how many came before it.

    The filter that an index begins with is written as a range, and sorted by. Said to be equal it
    would be left out of the sorting, and where statistics say that most orders have some state,
    all of them would be read, newest first, in search of one that has another.
    """
    parameters: list[Any] = [query.limit]

    def given(value: Any) -> str:
        parameters.append(value)
        return f"${len(parameters)}"

    conditions = _conditions(query, given)
    states = sorted({state.value for state in query.states})
    if query.customer_id is None and states:
        # One walk of the index on (state, id) for each state. In one statement with
        # "state IN" all the orders of those states would be sorted for each page.
        walks = [_walk("state", given(state), conditions) for state in states]
        source = " UNION ALL ".join(walks)
    else:
        if states:
            # The concatenation keeps the index on (state, id) out of it: the customer's is better.
            conditions.append(f"state || '' = ANY({given(states)}::text[])")
        customer = query.customer_id
        if customer is None:
            source = _walk(None, "", conditions)
        else:
            source = _walk("customer_id", given(customer), conditions)
    sql = f"SELECT {ORDER_COLUMNS} FROM ({source}) AS o ORDER BY o.id DESC LIMIT $1"  # noqa: S608 - see above
    return sql, parameters


def _walk(column: str | None, value: str, conditions: list[str]) -> str:
    """The newest orders that meet the conditions and, if there is a column, have that value."""
    if column is not None:
        conditions = [f"{column} >= {value}", f"{column} <= {value}", *conditions]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "id DESC" if column is None else f"{column} DESC, id DESC"
    return f"(SELECT * FROM orders {where} ORDER BY {order} LIMIT $1)"  # noqa: S608 - see above


def _conditions(query: OrderQuery, given: Any) -> list[str]:
    """The conditions on time and where the page begins."""
    conditions: list[str] = []
    ends = [] if query.before is None else [query.before]
    if query.created_after is not None:
        conditions.append(f"create_time >= {given(query.created_after)}")
        conditions.append(f"id >= {given(_first_id(_micros(query.created_after)))}")
    if query.created_before is not None:
        conditions.append(f"create_time < {given(query.created_before)}")
        # The millisecond in which the time ends still belongs to the range of ids.
        ends.append(_first_id(_micros(query.created_before) - 1 + 1000))
    if ends:
        conditions.append(f"id < {given(min(ends))}")
    return conditions


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _first_id(time: int) -> UUID:
    """What no UUIDv7 of the time's millisecond, in microseconds, or a later one is below."""
    return UUID(int=min(max(time // 1000, 0), 2**48 - 1) << 80)
