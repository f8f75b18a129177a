"""Orders, pages, changes and the backlog, each in one statement that answers with one text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.ports import (
    Backlog,
    Clock,
    OutboxEvent,
    ParkedOrder,
    RefusedEvent,
    Waiting,
)
from orderflow_server.storage.sqlite.rows import (
    CHANGE_JSON,
    EVENT_JSON,
    MICROSECOND,
    ORDER_JSON,
    change_from,
    event_from,
    lease_attempts_from,
    micros,
    order_from,
    refused_from,
)

# S608 below: what is put together are constants of this package; values are parameters.
_ORDERS_IN = f"""
SELECT json_group_array({ORDER_JSON}) FROM orders AS o
WHERE o.id IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - see above
_CHANGES = f"""
SELECT json_group_array({CHANGE_JSON})
FROM (SELECT * FROM events WHERE order_id = ? AND version > ? ORDER BY version)
"""  # noqa: S608 - see above
# Only the orders that await the gateway are in that index. Left to itself SQLite would rather
# read the index on states from end to end, which spares it to group.
BACKLOG = """
SELECT json_group_array(json_array(state, count, oldest)) FROM (
    SELECT state, count(*) AS count, min(coalesce(awaiting_since, update_time)) AS oldest
    FROM orders INDEXED BY orders_by_lease WHERE lease_until IS NOT NULL GROUP BY state
)
"""

# A server of before may settle a parked order, and does not know that it is to clear the time.
PARKED = "parked_time IS NOT NULL AND lease_until IS NULL AND state IN (?, ?)"
AWAITING = tuple(state for state in OrderState if state.awaits_gateway)
_PARKED_ORDERS = f"""
SELECT json_group_array(json_array({ORDER_JSON}, o.parked_time, o.parked_reason)) FROM (
    SELECT * FROM orders WHERE {PARKED} AND substr(parked_reason, 1, ?) = ?
    ORDER BY parked_time, id LIMIT ?
) AS o
"""  # noqa: S608 - see above
_COUNT_PARKED = f"SELECT count(*) FROM orders WHERE {PARKED}"  # noqa: S608 - see above
REFUSED = "refused_time IS NOT NULL AND NOT published"
"""Condition on an event that is refused now; that of the index `events_refused`."""

# A refused event is not ready, nor are later versions of its order.
_READY = """
NOT e.published AND e.refused_time IS NULL AND NOT EXISTS (
    SELECT 1 FROM events AS r INDEXED BY events_refused
    WHERE r.order_id = e.order_id AND r.version < e.version
    AND r.refused_time IS NOT NULL AND NOT r.published
)
"""
# Counting what is not ready, mostly nothing, costs less than checking each event.
WAITING_EVENTS = f"""
WITH refused AS MATERIALIZED (
    SELECT order_id, min(version) AS version, count(*) AS count
    FROM events INDEXED BY events_refused WHERE {REFUSED} GROUP BY order_id
)
SELECT json_array(
    (SELECT count(*) FROM events WHERE NOT published) - (
        SELECT count(*) FROM refused AS r
        CROSS JOIN events AS e ON e.order_id = r.order_id AND e.version >= r.version
        WHERE NOT e.published
    ),
    (SELECT e.time FROM events AS e WHERE {_READY} ORDER BY e.sequence LIMIT 1),
    (SELECT coalesce(sum(count), 0) FROM refused)
)
"""  # noqa: S608 - see above
UNPUBLISHED = f"""
SELECT json_group_array({EVENT_JSON}) FROM (
    SELECT * FROM events AS e
    WHERE {_READY} AND e.order_id NOT IN (SELECT value FROM json_each(?))
    ORDER BY e.sequence LIMIT ?
) AS e JOIN orders AS o ON o.id = e.order_id
"""  # noqa: S608 - see above
REFUSED_EVENTS = f"""
SELECT json_group_array(
    json_array(sequence, order_id, version, state, refused_reason, refused_time)
) FROM (
    SELECT * FROM events INDEXED BY events_refused WHERE {REFUSED} ORDER BY sequence LIMIT ?
)
"""  # noqa: S608 - see above


def read_json(
    connection: sqlite3.Connection, sql: str, parameters: Sequence[Any] | Mapping[str, Any]
) -> Any:
    """What the one text says that `sql` selects."""
    (text,) = connection.execute(sql, parameters).fetchone()
    return json.loads(text)


def order_values(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, list[Any]]:
    """The values of `ORDER_JSON` by id, of those orders that exist."""
    found = read_json(connection, _ORDERS_IN, (json.dumps(ids),))
    return {values[0]: values for values in found}


def get_order(connection: sqlite3.Connection, order_id: UUID) -> Order | None:
    found = order_values(connection, [str(order_id)])
    return order_from(found[str(order_id)]) if found else None


def list_changes(
    connection: sqlite3.Connection, order_id: UUID, after_version: int
) -> list[OrderChange]:
    found = read_json(connection, _CHANGES, (str(order_id), after_version))
    return [change_from(values) for values in found]


def list_parked(
    connection: sqlite3.Connection, limit: int, reason: str, clock: Clock
) -> list[ParkedOrder]:
    found = read_json(connection, _PARKED_ORDERS, (*AWAITING, len(reason), reason, limit))
    now = micros(clock())
    return [
        ParkedOrder(order_from(values), _age(since, now), why, lease_attempts_from(values))
        for values, since, why in found
    ]


def _age(since: int, now: int) -> timedelta:
    return max(now - since, 0) * MICROSECOND


def read_backlog(connection: sqlite3.Connection, events: bool, clock: Clock) -> Backlog:
    found = read_json(connection, BACKLOG, ())
    (parked,) = connection.execute(_COUNT_PARKED, AWAITING).fetchone()
    waiting, since, refused = read_json(connection, WAITING_EVENTS, ()) if events else (0, None, 0)
    now = micros(clock())
    return Backlog(
        orders={
            OrderState(state): Waiting(count, _age(oldest, now)) for state, count, oldest in found
        },
        events=Waiting(waiting, None if since is None else _age(since, now)),
        parked=parked,
        refused=refused,
    )


def list_unpublished(
    connection: sqlite3.Connection, limit: int, without: Collection[UUID]
) -> list[OutboxEvent]:
    parameters = (json.dumps([str(order_id) for order_id in without]), limit)
    events = [event_from(values) for values in read_json(connection, UNPUBLISHED, parameters)]
    return sorted(events, key=lambda event: event.sequence)


def list_refused(connection: sqlite3.Connection, limit: int, clock: Clock) -> list[RefusedEvent]:
    found = read_json(connection, REFUSED_EVENTS, (limit,))
    now = micros(clock())
    events = [refused_from(values, _age(since, now)) for *values, since in found]
    return sorted(events, key=lambda event: event.sequence)


def list_orders(connection: sqlite3.Connection, query: OrderQuery) -> list[Order]:
    sql, parameters = page_sql(query)
    return [order_from(values) for values in read_json(connection, sql, parameters)]


def page_sql(query: OrderQuery) -> tuple[str, list[Any]]:
    """A statement for one page, and its parameters.

    Whatever the filters, an index is read backwards from where the page begins: what a page
    costs does not depend on how many came before it.
    """
    conditions, parameters = _conditions(query)
    states = sorted(set(query.states))
    if query.customer_id is None and states:
        # One walk of the index on (state, id) for each state. In one statement with
        # "state IN" all the orders of those states would be sorted for each page.
        walks = [_walk(["state = ?", *conditions]) for _ in states]
        source = f"SELECT * FROM ({' UNION ALL '.join(walks)}) ORDER BY id DESC LIMIT ?"  # noqa: S608 - see above
        values = [value for state in states for value in (state, *parameters, query.limit)]
        values.append(query.limit)
    else:
        if states:
            # The plus keeps the index on (state, id) out of it: the customer's is the better.
            conditions.append(f"+state IN ({', '.join('?' * len(states))})")
            parameters += states
        source = _walk(conditions)
        values = [*parameters, query.limit]
    return f"SELECT json_group_array({ORDER_JSON}) FROM ({source}) AS o", values  # noqa: S608 - see above


def _walk(conditions: list[str]) -> str:
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT * FROM (SELECT * FROM orders {where} ORDER BY id DESC LIMIT ?)"  # noqa: S608 - see above


def _conditions(query: OrderQuery) -> tuple[list[str], list[Any]]:
    """All conditions but the states, and their parameters."""
    conditions: list[str] = []
    parameters: list[Any] = []

    def require(condition: str, value: Any) -> None:
        conditions.append(condition)
        parameters.append(value)

    if query.customer_id is not None:
        require("customer_id = ?", query.customer_id)
    ends = [] if query.before is None else [str(query.before)]
    if query.created_after is not None:
        after = micros(query.created_after)
        require("create_time >= ?", after)
        require("id >= ?", _first_id(after))
    if query.created_before is not None:
        before = micros(query.created_before)
        require("create_time < ?", before)
        # The millisecond in which the time ends still belongs to the range of ids.
        ends.append(_first_id(before - 1 + 1000))
    if ends:
        require("id < ?", min(ends))
    return conditions, parameters


def _first_id(time: int) -> str:
    """What no UUIDv7 of the time's millisecond, in microseconds, or a later one is below."""
    millis = f"{min(max(time // 1000, 0), 2**48 - 1):012x}"
    return f"{millis[:8]}-{millis[8:]}"
