"""A batch of commands as one statement for each kind of them, in one transaction.

What only places orders and saves others is a single statement. What the database knew already of
the placed ones is then read after the commit: when that fails, the batch fails and yet is written.

No two batches can lock each other out, in this process or another: each first inserts, by request
id, then locks orders, by id, then named leases, by name, then events, by sequence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from orderflow_server.orders.errors import OrderNotFound, RequestIdReused, VersionConflict
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import LeasedOrder
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
from orderflow_server.storage.postgres import statements as sql
from orderflow_server.storage.postgres.documents import new_orders, next_versions
from orderflow_server.storage.postgres.notices import notices
from orderflow_server.storage.postgres.rows import order_from, text

C = TypeVar("C", bound=Command[Any])
Connection = asyncpg.Connection


async def write_batch(
    connection: Connection, batch: Sequence[Command[Any]], now: datetime | None = None
) -> Written:
    """Writes places, then saves, then what concerns leases: set by set, in the batch's order.

    At last what concerns the outbox.

    Args:
        connection: Where.
        batch: What.
        now: The time to count leases from. None: the server's.
    """
    outcomes: list[object] = [None] * len(batch)
    changed: list[Order] = []
    places = _of(Place, batch)
    saves = list(_rounds(_of(Save, batch)))
    kinds = {type(command) for command in batch}
    # One statement is a transaction by itself, which saves two trips to the server and back.
    if kinds == {Place, Save} and len(saves) == 1 and not _share_orders(places, saves[0]):
        await _place_and_save(connection, places, saves[0], now, outcomes, changed)
        return Written(outcomes, changed)
    alone = (
        kinds == {Place}
        or (kinds == {Save} and len(saves) == 1)
        or (len(batch) == 1 and kinds != {Probe})
    )
    async with contextlib.nullcontext() if alone else connection.transaction():
        if places:
            await _place(connection, places, now, outcomes, changed)
        if len(saves) > 1 or kinds & {Defer, Park, Release}:
            await _lock(connection, batch)
        for some in saves:
            await _save(connection, some, now, outcomes, changed)
        if kinds - {Place, Save}:
            await _write_others(connection, batch, now, outcomes)
    return Written(outcomes, changed)


def _of(kind: type[C], batch: Sequence[Command[Any]]) -> list[tuple[int, C]]:
    """The commands of a kind, each with its place in the batch."""
    return [(index, command) for index, command in enumerate(batch) if type(command) is kind]


def _rounds(saves: list[tuple[int, Save]]) -> Iterator[list[tuple[int, Save]]]:
    """The saves in groups of which each has one of an order at most, one after the other."""
    while saves:
        first: dict[UUID, tuple[int, Save]] = {}
        for index, command in saves:
            first.setdefault(command.order.id, (index, command))
        yield list(first.values())
        taken = {index for index, _ in first.values()}
        saves = [each for each in saves if each[0] not in taken]


def _share_orders(places: list[tuple[int, Place]], saves: list[tuple[int, Save]]) -> bool:
    placed = {command.order.id for _, command in places}
    return any(command.order.id in placed for _, command in saves)


async def _place_and_save(
    connection: Connection,
    places: list[tuple[int, Place]],
    saves: list[tuple[int, Save]],
    now: datetime | None,
    outcomes: list[object],
    changed: list[Order],
) -> None:
    new = _once(places)
    ids = [command.order.id for _, command in saves]
    [(placed, found, _)] = await connection.fetch(
        sql.PLACE_AND_SAVE,
        now,
        new_orders(new),
        next_versions(command for _, command in saves),
        ids,
        notices([*(command.order.id for command in new), *ids]),
    )
    await _tell_placed(connection, places, new, set(placed), outcomes, changed)
    _tell_saved(saves, dict(found), outcomes, changed)


async def _place(
    connection: Connection,
    places: list[tuple[int, Place]],
    now: datetime | None,
    outcomes: list[object],
    changed: list[Order],
) -> None:
    new = _once(places)
    placed = await connection.fetchval(
        sql.PLACE, now, new_orders(new), notices(command.order.id for command in new)
    )
    await _tell_placed(connection, places, new, set(placed), outcomes, changed)


def _once(places: list[tuple[int, Place]]) -> list[Place]:
    """The first of each request id, in the order of these."""
    first: dict[UUID, Place] = {}
    for _, command in places:
        first.setdefault(command.order.request_id, command)
    return [first[request_id] for request_id in sorted(first)]


async def _tell_placed(
    connection: Connection,
    places: list[tuple[int, Place]],
    new: list[Place],
    placed: set[UUID],
    outcomes: list[object],
    changed: list[Order],
) -> None:
    stored: dict[UUID, Order] = {}
    missing: list[UUID] = []
    for command in new:
        order = command.order
        if order.id in placed:
            changed.append(order)
            stored[order.request_id] = order
        else:
            missing.append(order.request_id)
    if missing:
        # Placed before, or meanwhile: who inserts a row that another is inserting waits for that.
        for values in await connection.fetch(sql.PLACED, missing):
            order = order_from(values)
            stored[order.request_id] = order
    for index, command in places:
        order = stored[command.order.request_id]
        if order.content_hash == command.order.content_hash:
            outcomes[index] = order
        else:
            outcomes[index] = RequestIdReused(order.request_id)


async def _lock(connection: Connection, batch: Sequence[Command[Any]]) -> None:
    ids = {command.order.id for command in batch if isinstance(command, Save)}
    ids |= {command.order_id for command in batch if isinstance(command, Defer | Park | Release)}
    if ids:
        await connection.execute(sql.LOCK, list(ids))


async def _save(
    connection: Connection,
    saves: list[tuple[int, Save]],
    now: datetime | None,
    outcomes: list[object],
    changed: list[Order],
) -> None:
    ids = [command.order.id for _, command in saves]
    document = next_versions(command for _, command in saves)
    found = await connection.fetchval(sql.SAVE, now, document, ids, notices(ids))
    _tell_saved(saves, dict(found), outcomes, changed)


def _tell_saved(
    saves: list[tuple[int, Save]],
    versions: dict[UUID, int],
    outcomes: list[object],
    changed: list[Order],
) -> None:
    for index, command in saves:
        order = command.order
        version = versions.get(order.id)
        if version is None:
            outcomes[index] = OrderNotFound(order.id)
        elif order.version != version + 1:
            outcomes[index] = VersionConflict(order.id, order.version)
        else:
            changed.append(order)


async def _write_others(
    connection: Connection,
    batch: Sequence[Command[Any]],
    now: datetime | None,
    outcomes: list[object],
) -> None:
    # Of several for one order the last counts.
    defers = {command.order_id: command.delay for _, command in _of(Defer, batch)}
    if defers:
        await connection.execute(sql.DEFER, now, list(defers), list(defers.values()))
    # Here the first: to the others it is parked already.
    parks = {c.order_id: text(c.reason) for _, c in reversed(_of(Park, batch))}
    if parks:
        await connection.execute(sql.PARK, now, list(parks), list(parks.values()))
    for index, release in _of(Release, batch):
        released = await connection.fetchval(sql.RELEASE, now, release.order_id)
        outcomes[index] = released is not None
    for index, due in _of(LeaseDue, batch):
        taken = await connection.fetch(sql.LEASE_DUE, now, due.lease, due.limit, due.repeated)
        outcomes[index] = tuple(
            LeasedOrder(order_from(values[:-1]), values[-1]) for values in taken
        )
    names = {c.name for c in batch if isinstance(c, TakeLease | GiveUpLease)}
    for name in sorted(names):
        await _named_lease(connection, name, batch, now, outcomes)
    if {type(command) for command in batch} & {Refuse, RetryRefused, SkipRefused}:
        await _refusals(connection, batch, now, outcomes)
    sequences = {n for _, command in _of(MarkPublished, batch) for n in command.sequences}
    if sequences:
        await connection.execute(sql.MARK_PUBLISHED, list(sequences))
    if _of(Probe, batch):
        await connection.execute(sql.PROBE)
        await connection.execute(sql.END_PROBE)


async def _named_lease(
    connection: Connection,
    name: str,
    batch: Sequence[Command[Any]],
    now: datetime | None,
    outcomes: list[object],
) -> None:
    for index, take in _of(TakeLease, batch):
        if take.name == name:
            holder = await connection.fetchval(sql.TAKE_LEASE, now, name, take.holder, take.lease)
            outcomes[index] = holder is not None
    for _, give_up in _of(GiveUpLease, batch):
        if give_up.name == name:
            await connection.execute(sql.GIVE_UP_LEASE, name, give_up.holder)


async def _refusals(
    connection: Connection,
    batch: Sequence[Command[Any]],
    now: datetime | None,
    outcomes: list[object],
) -> None:
    # Lock in the order of the sequence all that this and the marking after it write.
    locks: set[int] = set()
    for command in batch:
        if isinstance(command, Refuse):
            locks.update(command.reasons)
        elif isinstance(command, MarkPublished | SkipRefused):
            locks.update(command.sequences)
        elif isinstance(command, RetryRefused):
            locks.update(command.sequences or ())
    every = any(command.sequences is None for _, command in _of(RetryRefused, batch))
    await connection.execute(sql.LOCK_EVENTS, list(locks), every)
    for _, refuse in _of(Refuse, batch):
        reasons = [text(reason) for reason in refuse.reasons.values()]
        await connection.execute(sql.REFUSE, now, list(refuse.reasons), reasons)
    for index, retry in _of(RetryRefused, batch):
        chosen = None if retry.sequences is None else list(retry.sequences)
        retried = await connection.fetch(sql.RETRY_REFUSED, chosen)
        outcomes[index] = tuple(sorted(sequence for (sequence,) in retried))
    for index, skip in _of(SkipRefused, batch):
        skipped = await connection.fetch(sql.SKIP_REFUSED, list(skip.sequences))
        outcomes[index] = tuple(sorted(sequence for (sequence,) in skipped))
