"""What only a real PostgreSQL can show: its failures, and several processes over one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from msgspec import structs

from fakes.clock import FakeClock
from fakes.orders import LEASE, LEASE_FOR, NOW, new_order
from orderflow_server.orders.errors import (
    InvalidValue,
    OrderNotFound,
    RequestIdReused,
    VersionConflict,
)
from orderflow_server.orders.order import Order, OrderQuery, OrderState
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import Command, Defer, LeaseDue, Park, Place, Save
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect
from orderflow_server.storage.postgres.writes import write_batch
from orderflow_server.storage.store import EngineOrderStore

WAITING_FOR_LOCKS = """
SELECT count(*) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""
Stores = tuple[EngineOrderStore, EngineOrderStore, EngineOrderStore]


@pytest.fixture
async def store(url: str, clock: FakeClock) -> AsyncIterator[EngineOrderStore]:
    async with open_store_for(DatabaseAddress.parse(url), now=clock) as opened:
        yield opened


def bad(**values: Any) -> Order:
    """An order with values that no order can have."""
    return structs.replace(new_order(3), **values)


async def place(store: EngineOrderStore, number: int) -> Order:
    return await store.place(new_order(number), lease=LEASE_FOR)


# Data that cannot be written


async def test_a_command_that_cannot_be_written_fails_alone(store: EngineOrderStore) -> None:
    orders = [new_order(0), bad(version=2**63), new_order(2)]
    first, poisoned, last = await asyncio.gather(
        *(store.place(order, lease=LEASE_FOR) for order in orders), return_exceptions=True
    )
    assert (first, last) == (orders[0], orders[2])
    assert isinstance(poisoned, InvalidValue)
    assert await store.list(OrderQuery(limit=10)) == [orders[2], orders[0]]


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(new_order(1, request=2), id="an id that is taken"),
        pytest.param(bad(customer_id="\ud800"), id="no text"),
        pytest.param(bad(customer_id="a\0b"), id="a NUL"),
        pytest.param(bad(version=2**63), id="too large"),
        pytest.param(bad(version="two"), id="no number"),
        pytest.param(bad(customer_id=b"ada"), id="bytes"),
        pytest.param(bad(customer_id=None), id="nothing"),
        pytest.param(bad(customer_id=object()), id="an object"),
    ],
)
async def test_data_that_the_schema_refuses_poisons_its_batch(
    dialect: PostgresDialect, order: Order
) -> None:
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    paid = Save(new_order(1).paid(NOW), None)
    with pytest.raises(PoisonedBatch):
        await dialect.write([Place(new_order(4), LEASE_FOR), paid, Place(order, LEASE_FOR)])
    assert await dialect.list(OrderQuery(limit=10)) == [new_order(1)], "nothing of it is written"
    await dialect.write([Place(new_order(5), LEASE_FOR)])


async def test_what_fails_late_in_a_batch_undoes_all_of_it(dialect: PostgresDialect) -> None:
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    batch: list[Command[Any]] = [
        Place(new_order(2), LEASE_FOR),
        Save(new_order(1).paid(NOW), None),
        Park(new_order(2).id, "stuck"),
        LeaseDue(LEASE_FOR, 2**63),  # too large, in the last of the statements
    ]
    with pytest.raises(PoisonedBatch):
        await dialect.write(batch)
    assert await dialect.list(OrderQuery(limit=10)) == [new_order(1)]
    assert len(await dialect.unpublished(10)) == 1
    await dialect.write(batch[:-1])
    assert len(await dialect.unpublished(10)) == 3


async def test_a_gateways_words_are_kept_as_far_as_they_are_text(store: EngineOrderStore) -> None:
    placed = await place(store, 1)
    await store.save(placed.declined("no\0funds", NOW))
    assert (await store.get(placed.id)).decline_reason == "no\N{REPLACEMENT CHARACTER}funds"


# Several processes


async def test_one_request_id_at_once_from_three_processes_places_one_order(
    stores: Stores, connection: asyncpg.Connection
) -> None:
    attempts = [new_order(number, request=1) for number in range(200)]
    answers = await asyncio.gather(
        *(stores[n % 3].place(order, lease=LEASE_FOR) for n, order in enumerate(attempts))
    )
    [stored] = await stores[0].list(OrderQuery(limit=1000))
    assert answers == [stored] * 200
    assert await connection.fetchval("SELECT count(*) FROM orders") == 1
    assert await connection.fetchval("SELECT count(*) FROM events") == 1
    assert await connection.fetchval("SELECT count(*) FROM order_items") == 3


async def test_one_request_id_from_three_processes_with_other_content_is_refused(
    stores: Stores,
) -> None:
    attempts = [
        new_order(number, request=1, customer_id=("ada", "bob")[number % 2]) for number in range(60)
    ]
    answers = await asyncio.gather(
        *(stores[n % 3].place(order, lease=LEASE_FOR) for n, order in enumerate(attempts)),
        return_exceptions=True,
    )
    [stored] = await stores[0].list(OrderQuery(limit=1000))
    for order, answer in zip(attempts, answers, strict=True):
        if order.customer_id == stored.customer_id:
            assert answer == stored
        else:
            assert isinstance(answer, RequestIdReused)


async def test_of_changes_by_three_processes_one_wins_and_the_others_conflict(
    stores: Stores,
) -> None:
    placed = await place(stores[0], 1)
    rivals = [placed.paid(NOW), *(placed.declined(f"no. {n}", NOW) for n in range(29))]
    answers = await asyncio.gather(
        *(stores[n % 3].save(order) for n, order in enumerate(rivals)), return_exceptions=True
    )
    assert [type(answer) for answer in answers if answer is not None] == [VersionConflict] * 29
    winner = rivals[answers.index(None)]
    assert await stores[1].get(placed.id) == winner
    assert [event.order for event in await stores[2].unpublished(limit=10)] == [placed, winner]


async def test_no_order_is_leased_to_two_processes(stores: Stores) -> None:
    orders = [new_order(number) for number in range(200)]
    await asyncio.gather(*(stores[0].place(order, lease=timedelta(0)) for order in orders))
    taken = await asyncio.gather(
        *(stores[n % 3].lease_due(lease=LEASE_FOR, limit=7) for n in range(60))
    )
    ids = [leased.order.id for some in taken for leased in some]
    assert len(ids) == len(set(ids))
    # What another process was just looking at was skipped rather than waited for.
    rest = await stores[0].lease_due(lease=LEASE_FOR, limit=1000)
    assert {order.id for order in orders} == {*ids, *(leased.order.id for leased in rest)}


async def none_locked_out(*writes: Awaitable[object]) -> None:
    """All of them at once: some may find that they are too late, but none has to give way."""
    answers = await asyncio.gather(*writes, return_exceptions=True)
    for answer in answers:
        assert not isinstance(answer, BaseException) or isinstance(answer, VersionConflict), answer


async def test_processes_that_write_the_same_orders_never_lock_each_other_out(
    stores: Stores,
) -> None:
    orders = [await place(stores[0], number) for number in range(60)]
    for _ in range(10):
        orders = [structs.replace(order, version=order.version + 1) for order in orders]
        some, others = orders[:30], orders[30:]
        writes: list[Awaitable[object]] = []
        # What one locks first, the other locks last.
        for store, first, last in ((stores[0], some, others), (stores[1], others, some)):
            writes += [store.save(order, lease=LEASE_FOR) for order in first]
            writes += [store.defer(order.id, delay=LEASE_FOR) for order in last]
            writes += [store.park(order.id, reason="stuck") for order in last]
            writes += [store.release(order.id) for order in last[::10]]
        await none_locked_out(*writes)


async def test_processes_that_place_the_same_orders_never_lock_each_other_out(
    stores: Stores,
) -> None:
    for turn in range(5):
        numbers = range(turn * 250, turn * 250 + 250)
        orders = [new_order(number) for number in numbers]
        # Each process makes ids of its own; the request ids are the same.
        others = [new_order(10_000 + number, request=number) for number in reversed(numbers)]
        await none_locked_out(
            *(stores[0].place(order, lease=LEASE_FOR) for order in orders),
            *(stores[1].place(order, lease=LEASE_FOR) for order in others),
        )
        placed = [stores[0].place(order, lease=LEASE_FOR) for order in orders]
        orders = list(await asyncio.gather(*placed))
        await none_locked_out(
            *(stores[0].save(order.paid(NOW)) for order in orders),
            *(stores[1].save(order.paid(NOW)) for order in reversed(orders)),
        )


async def test_nothing_is_locked_before_all_is_inserted(url: str) -> None:
    known, contested = new_order(1), new_order(2)
    one, other = await asyncpg.connect(url), await asyncpg.connect(url)
    await write_batch(other, [Place(known, LEASE_FOR)])
    transaction = other.transaction()
    await transaction.start()
    await write_batch(other, [Place(contested, LEASE_FOR)])
    batch = [Save(known.paid(NOW), None), Place(new_order(12, request=2), LEASE_FOR)]
    writing = asyncio.create_task(write_batch(one, batch))
    async with asyncio.timeout(20):
        while not await other.fetchval(WAITING_FOR_LOCKS):
            assert not writing.done()
            await asyncio.sleep(0.01)
    # It waits for what the other has inserted. What it holds the other would wait for.
    await other.fetchval("SELECT id FROM orders WHERE id = $1 FOR NO KEY UPDATE NOWAIT", known.id)
    await transaction.commit()
    assert (await writing).outcomes == [None, contested]
    await one.close()
    await other.close()


async def test_places_and_saves_in_one_batch_are_told_each_its_own(
    dialect: PostgresDialect,
) -> None:
    await dialect.write([Place(new_order(number), LEASE_FOR) for number in (1, 2)])
    conflicting = structs.replace(new_order(2).paid(NOW), version=5)
    written = await dialect.write(
        [
            Save(new_order(1).paid(NOW), None),
            Place(new_order(3), LEASE_FOR),
            Place(new_order(11, request=1), LEASE_FOR),  # a replay
            Place(new_order(12, request=2, customer_id="bob"), LEASE_FOR),
            Save(conflicting, None),
            Save(new_order(9).paid(NOW), None),  # never placed
            Place(new_order(13, request=3), LEASE_FOR),  # a replay within the batch
        ]
    )
    assert [type(outcome) for outcome in written.outcomes] == [
        *(type(None), Order, Order, RequestIdReused, VersionConflict, OrderNotFound, Order)
    ]
    assert written.outcomes[1] == written.outcomes[6] == new_order(3)
    replayed = written.outcomes[2]
    assert isinstance(replayed, Order)
    assert (replayed.id, replayed.state) == (new_order(1).id, OrderState.PAID), "as it was saved"
    assert {order.id for order in written.changed} == {new_order(1).id, new_order(3).id}
    events = [(event.order.id, event.order.version) for event in await dialect.unpublished(10)]
    assert set(events[2:]) == {(new_order(3).id, 1), (new_order(1).id, 2)}
    assert len(events) == 4


async def test_an_order_is_placed_and_saved_in_one_batch(dialect: PostgresDialect) -> None:
    order = new_order(1)
    written = await dialect.write([Place(order, LEASE_FOR), Save(order.paid(NOW), None)])
    assert written.outcomes == [order, None]
    assert await dialect.get(order.id) == order.paid(NOW)


async def test_processes_that_take_and_mark_the_same_never_lock_each_other_out(
    stores: Stores, clock: FakeClock
) -> None:
    await asyncio.gather(*(place(stores[0], number) for number in range(200)))
    clock.now = LEASE
    sequences = [event.sequence for event in await stores[0].unpublished(limit=200)]
    for turn in range(5):
        writes: list[Awaitable[object]] = []
        for store, forth in ((stores[0], 1), (stores[1], -1)):
            for n in range(20)[::forth]:
                name = f"lease {turn} {n}"
                writes.append(store.take_lease(name, holder="a", lease=LEASE_FOR))
            some = sequences[turn * 40 : turn * 40 + 40][::forth]
            writes.append(store.refuse(dict.fromkeys(some[:20], "too large")))
            writes.append(store.skip_refused(some[10:]))
            writes.append(store.mark_published(some))
            writes.append(store.retry_refused())
            writes.append(store.lease_due(lease=timedelta(0), limit=50))
        await none_locked_out(*writes)
    assert list(await stores[0].unpublished(limit=10)) == []


async def test_the_outbox_has_no_gaps_while_three_processes_write(stores: Stores) -> None:
    ended = asyncio.Event()

    async def live(number: int) -> None:
        """The whole life of an order, each step in another process."""
        order = await place(stores[number % 3], number)
        order = order.paid(NOW)
        await stores[(number + 1) % 3].save(order)
        order = order.refunding(NOW)
        await stores[(number + 2) % 3].save(order, lease=LEASE_FOR)
        await stores[number % 3].save(order.cancelled(NOW))

    async def publish() -> dict[Any, list[int]]:
        seen: dict[Any, list[int]] = {}
        while True:
            last = ended.is_set()
            events = await stores[0].unpublished(limit=50)
            for event in events:
                seen.setdefault(event.order.id, []).append(event.order.version)
            await stores[0].mark_published([event.sequence for event in events])
            if last and not events:
                return seen

    publishing = asyncio.create_task(publish())
    await asyncio.gather(*(live(number) for number in range(150)))
    ended.set()
    assert await publishing == {new_order(number).id: [1, 2, 3, 4] for number in range(150)}


async def test_deferring_and_parking_is_written_with_the_rest(dialect: PostgresDialect) -> None:
    await dialect.write([Place(new_order(1), timedelta(0)), Place(new_order(2), timedelta(0))])
    await dialect.write([Defer(new_order(1).id, LEASE_FOR), Park(new_order(2).id, "stuck")])
    [leased] = (await dialect.write([LeaseDue(LEASE_FOR, 9)])).outcomes
    assert leased == ()
    assert [each.order for each in await dialect.parked(9, "")] == [new_order(2)]
