"""A batch of commands as a few statements over sets of rows, in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

from orderflow_server.orders.errors import OrderNotFound, RequestIdReused, VersionConflict
from orderflow_server.orders.ids import text_of
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import LONGEST_LEASE, REPEATED_ATTEMPTS, Clock, LeasedOrder
from orderflow_server.storage.commands import (
    Command,
    Defer,
    GiveUpLease,
    LeaseDue,
    MarkPublished,
    Park,
    Place,
    Probe,
    Refuse,
    Release,
    RetryRefused,
    Save,
    SkipRefused,
    TakeLease,
)
from orderflow_server.storage.dialect import Written
from orderflow_server.storage.sqlite.bulk import Bulk
from orderflow_server.storage.sqlite.reads import AWAITING, PARKED, REFUSED, order_values, read_json
from orderflow_server.storage.sqlite.rows import (
    MICROSECOND,
    event_row,
    item_rows,
    lease_attempts_from,
    micros,
    order_from,
    order_row,
)

C = TypeVar("C", bound=Command[Any])

_LONGEST = LONGEST_LEASE // MICROSECOND

INSERT_ORDERS = Bulk.insert(
    "orders",
    "id",
    "request_id",
    "customer_id",
    "currency_code",
    "total_units",
    "total_nanos",
    "payment_token",
    "content_hash",
    "state",
    "version",
    "decline_reason",
    "create_time",
    "update_time",
    "lease_until",
    "traceparent",
    "awaiting_since",
)
INSERT_ITEMS = Bulk.insert(
    "order_items", "order_id", "position", "sku", "quantity", "price_units", "price_nanos"
)
INSERT_EVENTS = Bulk.insert("events", "order_id", "version", "state", "decline_reason", "time")
UPDATE_ORDERS = Bulk(
    ("id", "state", "version", "decline_reason", "update_time", "lease_until", "now"),
    """
    UPDATE orders SET
        state = new.state, version = new.version, decline_reason = new.decline_reason,
        update_time = new.update_time, lease_until = nullif(new.lease_until, 0),
        awaiting_since = CASE WHEN new.lease_until <> 0 THEN new.now END,
        lease_attempts = 0, parked_time = NULL, parked_reason = ''
    FROM new WHERE orders.id = new.id
    """,
)
UPDATE_LEASES = Bulk(
    ("id", "lease_until"),
    """
    UPDATE orders SET lease_until = new.lease_until
    FROM new WHERE orders.id = new.id AND orders.lease_until IS NOT NULL
    """,
)
PARK_ORDERS = Bulk(
    ("id", "parked_time", "reason"),
    """
    UPDATE orders
    SET parked_time = new.parked_time, parked_reason = new.reason, lease_until = NULL
    FROM new WHERE orders.id = new.id AND orders.lease_until IS NOT NULL
    """,
)
_RELEASE = f"""
UPDATE orders SET parked_time = NULL, parked_reason = '', lease_until = ?, lease_attempts = 0
WHERE id = ? AND {PARKED}
"""  # noqa: S608 - a constant of this package
_TAKE_LEASE = """
INSERT INTO leases (name, holder, until) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE leases.holder = excluded.holder OR leases.until <= ? OR leases.until > ?
"""
_GIVE_UP_LEASE = "DELETE FROM leases WHERE name = ? AND holder = ?"
_REFUSE = """
UPDATE events SET refused_time = ?, refused_reason = new.value
FROM json_each(?) AS new
WHERE events.sequence = CAST(new.key AS INTEGER) AND refused_time IS NULL AND NOT published
"""
_RETRY_REFUSED = f"""
UPDATE events SET refused_time = NULL, refused_reason = ''
WHERE sequence IN (SELECT value FROM json_each(?)) AND {REFUSED} RETURNING sequence
"""  # noqa: S608 - a constant of this package
_RETRY_ALL_REFUSED = f"""
UPDATE events INDEXED BY events_refused SET refused_time = NULL, refused_reason = ''
WHERE {REFUSED} RETURNING sequence
"""  # noqa: S608 - a constant of this package
_SKIP_REFUSED = f"""
UPDATE events SET published = 1
WHERE sequence IN (SELECT value FROM json_each(?)) AND {REFUSED} RETURNING sequence
"""  # noqa: S608 - a constant of this package
_PROBE = "INSERT INTO leases (name, holder, until) VALUES ('write probe', '', 0)"
_PROBED = "DELETE FROM leases WHERE name = 'write probe'"
_MARK_PUBLISHED = """
UPDATE events SET published = 1 WHERE sequence IN (SELECT value FROM json_each(?))
"""
_PLACED = """
SELECT json_group_array(id) FROM orders
WHERE request_id IN (SELECT value FROM json_each(?))
"""
_VERSIONS = """
SELECT json_group_object(id, version) FROM orders
WHERE id IN (SELECT value FROM json_each(?))
"""
_FRESH, _REPEATED = f"< {REPEATED_ATTEMPTS}", f">= {REPEATED_ATTEMPTS}"
_WALK = """
SELECT * FROM (
    SELECT id, lease_until FROM orders INDEXED BY {index}
    WHERE lease_until {ended} AND lease_attempts {attempts} ORDER BY lease_until, id LIMIT {limit}
)
"""


def _walks(index: str, attempts: str, limit: str) -> str:
    """Due orders of one kind, those whose lease was written under a wrong clock last."""
    walks = " UNION ALL ".join(
        _WALK.format(index=index, ended=ended, attempts=attempts, limit=limit)
        for ended in ("<= :now", "> :too_far")
    )
    return f"SELECT * FROM ({walks}) ORDER BY lease_until, id LIMIT {limit}"  # noqa: S608 - constants


DUE = f"""
SELECT json_group_array(id) FROM (
    SELECT id FROM (
        SELECT 0 AS repeated, * FROM ({_walks("orders_by_lease", _FRESH, ":limit")})
        UNION ALL
        SELECT 1, * FROM ({_walks("orders_repeated_by_lease", _REPEATED, ":repeated")})
    ) ORDER BY repeated, lease_until, id LIMIT :limit
)
"""  # noqa: S608 - constants of this package
_TAKE = """
UPDATE orders SET lease_until = ?, lease_attempts = lease_attempts + 1
WHERE id IN (SELECT value FROM json_each(?))
"""


def write_batch(
    connection: sqlite3.Connection, batch: Sequence[Command[Any]], clock: Clock
) -> Written:
    """Writes places, then saves, then what concerns leases: set by set, in the batch's order.

    At last what concerns the outbox.

    Args:
        connection: Where.
        batch: What.
        clock: Asked once the transaction has begun, for the time to count leases from.
    """
    outcomes: list[object] = [None] * len(batch)
    changed: list[Order] = []
    with _transaction(connection):
        now = micros(clock())
        _place(connection, _of(Place, batch), now, outcomes, changed)
        _save(connection, _of(Save, batch), now, outcomes, changed)
        _defer(connection, _of(Defer, batch), now)
        _park(connection, _of(Park, batch), now)
        for index, release in _of(Release, batch):
            outcomes[index] = _release(connection, release, now)
        for index, lease_due in _of(LeaseDue, batch):
            outcomes[index] = _lease_due(connection, lease_due, now)
        for index, take_lease in _of(TakeLease, batch):
            outcomes[index] = _take_lease(connection, take_lease, now)
        for _, give_up in _of(GiveUpLease, batch):
            connection.execute(_GIVE_UP_LEASE, (give_up.name, give_up.holder))
        for _, refuse in _of(Refuse, batch):
            connection.execute(
                _REFUSE,
                (
                    now,
                    json.dumps(dict(refuse.reasons)),
                ),
            )
        for index, retry in _of(RetryRefused, batch):
            outcomes[index] = _retry_refused(connection, retry)
        for index, skip in _of(SkipRefused, batch):
            sequences = json.dumps(list(skip.sequences))
            outcomes[index] = _sequences(connection.execute(_SKIP_REFUSED, (sequences,)))
        _mark_published(connection, _of(MarkPublished, batch))
        if _of(Probe, batch):
            connection.execute(_PROBE)
            connection.execute(_PROBED)
    return Written(outcomes, changed)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _of(kind: type[C], batch: Sequence[Command[Any]]) -> list[tuple[int, C]]:
    """The commands of a kind, each with its place in the batch."""
    return [(index, command) for index, command in enumerate(batch) if type(command) is kind]


def _place(
    connection: sqlite3.Connection,
    places: list[tuple[int, Place]],
    now: int,
    outcomes: list[object],
    changed: list[Order],
) -> None:
    if not places:
        return
    first: dict[UUID, Order] = {}  # By request id: what this batch adds, or what is stored.
    for order in _placed_before(connection, places):
        first[order.request_id] = order
    orders: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    events: list[tuple[Any, ...]] = []
    for index, command in places:
        order = command.order
        stored = first.get(order.request_id)
        if stored is None:
            stored = first[order.request_id] = order
            order_id = text_of(order.id)
            orders.append(order_row(order, order_id, now, command.lease))
            items += item_rows(order, order_id)
            events.append(event_row(order, order_id))
            changed.append(order)
        if stored.content_hash == order.content_hash:
            outcomes[index] = stored
        else:
            outcomes[index] = RequestIdReused(order.request_id)
    INSERT_ORDERS.run(connection, orders)
    INSERT_ITEMS.run(connection, items)
    INSERT_EVENTS.run(connection, events)


def _placed_before(connection: sqlite3.Connection, places: list[tuple[int, Place]]) -> list[Order]:
    """The stored orders that any of the request ids placed."""
    request_ids = [text_of(command.order.request_id) for _, command in places]
    ids = read_json(connection, _PLACED, (json.dumps(request_ids),))
    if not ids:
        return []
    return [order_from(values) for values in order_values(connection, ids).values()]


def _save(
    connection: sqlite3.Connection,
    saves: list[tuple[int, Save]],
    now: int,
    outcomes: list[object],
    changed: list[Order],
) -> None:
    if not saves:
        return
    ids = [text_of(command.order.id) for _, command in saves]
    versions: dict[str, int] = read_json(connection, _VERSIONS, (json.dumps(ids),))
    rows: dict[str, tuple[Any, ...]] = {}  # By id: of several versions only the last is kept.
    events: list[tuple[Any, ...]] = []
    for (index, command), order_id in zip(saves, ids, strict=True):
        order = command.order
        version = versions.get(order_id)
        if version is None:
            outcomes[index] = OrderNotFound(order.id)
        elif order.version != version + 1:
            outcomes[index] = VersionConflict(order.id, order.version)
        else:
            versions[order_id] = order.version
            event = event_row(order, order_id)
            lease_until = 0 if command.lease is None else now + command.lease // MICROSECOND
            _, version_, state, reason, update_time = event
            rows[order_id] = (order_id, state, version_, reason, update_time, lease_until, now)
            events.append(event)
            changed.append(order)
    UPDATE_ORDERS.run(connection, list(rows.values()))
    INSERT_EVENTS.run(connection, events)


def _defer(connection: sqlite3.Connection, defers: list[tuple[int, Defer]], now: int) -> None:
    # Of several for one order the last counts.
    rows = {str(command.order_id): now + command.delay // MICROSECOND for _, command in defers}
    UPDATE_LEASES.run(connection, list(rows.items()))


def _park(connection: sqlite3.Connection, parks: list[tuple[int, Park]], now: int) -> None:
    # The first has parked it, to the others it was parked already.
    reasons = {str(command.order_id): command.reason for _, command in reversed(parks)}
    PARK_ORDERS.run(connection, [(order_id, now, reason) for order_id, reason in reasons.items()])


def _release(connection: sqlite3.Connection, command: Release, now: int) -> bool:
    parameters = (now, str(command.order_id), *AWAITING)
    return connection.execute(_RELEASE, parameters).rowcount == 1


def _lease_due(
    connection: sqlite3.Connection, command: LeaseDue, now: int
) -> tuple[LeasedOrder, ...]:
    repeated = command.limit if command.repeated is None else command.repeated
    parameters = {
        "now": now,
        "too_far": now + _LONGEST,
        "limit": command.limit,
        "repeated": repeated,
    }
    ids: list[str] = read_json(connection, DUE, parameters)
    if not ids:
        return ()
    connection.execute(_TAKE, (now + command.lease // MICROSECOND, json.dumps(ids)))
    taken = order_values(connection, ids)
    return tuple(
        LeasedOrder(order_from(taken[order_id]), lease_attempts_from(taken[order_id]))
        for order_id in ids
    )


def _take_lease(connection: sqlite3.Connection, command: TakeLease, now: int) -> bool:
    until = now + command.lease // MICROSECOND
    parameters = (command.name, command.holder, until, now, now + _LONGEST)
    return connection.execute(_TAKE_LEASE, parameters).rowcount == 1


def _retry_refused(connection: sqlite3.Connection, command: RetryRefused) -> tuple[int, ...]:
    if command.sequences is None:
        return _sequences(connection.execute(_RETRY_ALL_REFUSED))
    sequences = json.dumps(list(command.sequences))
    return _sequences(connection.execute(_RETRY_REFUSED, (sequences,)))


def _sequences(found: sqlite3.Cursor) -> tuple[int, ...]:
    return tuple(sorted(sequence for (sequence,) in found))


def _mark_published(
    connection: sqlite3.Connection, commands: list[tuple[int, MarkPublished]]
) -> None:
    sequences = [sequence for _, command in commands for sequence in command.sequences]
    if sequences:
        connection.execute(_MARK_PUBLISHED, (json.dumps(sequences),))
