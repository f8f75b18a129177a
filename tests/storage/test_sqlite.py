"""What only a real file can show: its failures, its crashes, and what its statements cost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, NOW, new_order
from orderflow_server.orders.errors import InvalidValue, OrderNotFound, StoreUnavailable
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderItem, OrderQuery, OrderState
from orderflow_server.orders.ports import LONGEST_LEASE
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
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.storage.engine import BatchEnded, EngineOptions
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.sqlite import SqliteDialect, SqliteOptions
from orderflow_server.storage.sqlite.dialect import use_wal
from orderflow_server.storage.sqlite.reads import (
    BACKLOG,
    REFUSED_EVENTS,
    UNPUBLISHED,
    WAITING_EVENTS,
    page_sql,
)
from orderflow_server.storage.sqlite.writes import write_batch
from orderflow_server.storage.store import EngineOrderStore, open_store

TESTS = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
async def store(path: Path, clock: FakeClock) -> AsyncIterator[EngineOrderStore]:
    async with open_store_for(DatabaseAddress(path=path), now=clock) as opened:
        yield opened


@pytest.fixture
def connection(store: EngineOrderStore, path: Path) -> Iterator[sqlite3.Connection]:
    """A connection beside the store's own, like another process."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as opened:
        yield opened


def bad(**values: Any) -> Order:
    """An order with values that no order can have."""
    return structs.replace(new_order(3), **values)


# Failures


async def test_a_command_that_cannot_be_written_fails_alone(store: EngineOrderStore) -> None:
    orders = [new_order(0), bad(version=2**63), new_order(2)]
    first, poisoned, last = await asyncio.gather(
        *(store.place(order, lease=LEASE_FOR) for order in orders), return_exceptions=True
    )
    assert (first, last) == (orders[0], orders[2])
    assert isinstance(poisoned, InvalidValue)
    assert isinstance(poisoned.__cause__, OverflowError)
    assert await store.list(OrderQuery(limit=10)) == [orders[2], orders[0]]


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(new_order(1, request=2), id="an id that is taken"),
        pytest.param(bad(customer_id="\ud800"), id="no text"),
        pytest.param(bad(version=2**63), id="too large"),
        pytest.param(bad(version="two"), id="no number"),
        pytest.param(bad(customer_id=b"ada"), id="bytes"),
        pytest.param(bad(customer_id=None), id="nothing"),
        pytest.param(bad(customer_id=object()), id="an object"),
        pytest.param(bad(create_time=NOW.replace(tzinfo=None)), id="a time without zone"),
    ],
)
async def test_data_that_the_schema_refuses_poisons_its_batch(path: Path, order: Order) -> None:
    dialect = SqliteDialect(path, SqliteOptions())
    await dialect.open()
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    with pytest.raises(PoisonedBatch):
        await dialect.write([Place(new_order(4), LEASE_FOR), Place(order, LEASE_FOR)])
    assert await dialect.list(OrderQuery(limit=10)) == [new_order(1)], "nothing of it is written"
    await dialect.write([Place(new_order(5), LEASE_FOR)])
    await dialect.close()


async def test_a_full_disk_fails_the_batch_and_the_next_is_written(
    store: EngineOrderStore,
) -> None:
    writer = store._dialect._writer  # type: ignore[attr-defined]  # stands in for a disk
    await store.place(new_order(0), lease=LEASE_FOR)
    writer.execute("PRAGMA max_page_count = 1")
    items = tuple(OrderItem(f"sku-{n}", 1, Money("EUR", 1)) for n in range(100))
    failures = await asyncio.gather(
        *(store.place(new_order(n, items=items), lease=LEASE_FOR) for n in range(1, 20)),
        return_exceptions=True,
    )
    for failure in failures:
        assert isinstance(failure, StoreUnavailable)
        assert isinstance(failure.__cause__, sqlite3.OperationalError)
    assert await store.list(OrderQuery(limit=100)) == [new_order(0)]
    # The next connection has a disk of the usual size.
    order = new_order(20, items=items)
    assert await store.place(order, lease=LEASE_FOR) == order


async def test_a_lock_that_lasts_too_long_fails_the_batch(path: Path) -> None:
    impatient = SqliteDialect(path, SqliteOptions(busy_timeout_s=0))
    async with open_store(impatient, options=EngineOptions()) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable) as failure:
            await store.place(new_order(1), lease=LEASE_FOR)
        assert isinstance(failure.value.__cause__, sqlite3.OperationalError)
        await store.ping()  # readers do not wait for writers
        other.close()
        assert await store.place(new_order(1), lease=LEASE_FOR) == new_order(1)


async def test_a_directory_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be created") as failure:
        async with open_store_for(DatabaseAddress(path=tmp_path / "missing" / "orders.db")):
            pass
    assert isinstance(failure.value.__cause__, FileNotFoundError)


async def test_a_file_that_is_no_database_is_told_at_once() -> None:
    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        async with open_store_for(DatabaseAddress(path=Path(__file__))):
            pass


async def test_a_closed_store_answers_nobody(path: Path) -> None:
    async with open_store_for(DatabaseAddress(path=path)) as store:
        await store.place(new_order(1), lease=LEASE_FOR)
    with pytest.raises(StoreUnavailable):
        await store.place(new_order(2), lease=LEASE_FOR)
    with pytest.raises(StoreUnavailable):
        await store.get(new_order(1).id)
    with pytest.raises(StoreUnavailable):
        await store.ping()


# Cancellation


async def test_cancelling_writes_all_of_a_started_batch_and_none_of_a_waiting_one(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    def place(number: int) -> asyncio.Task[Order]:
        return asyncio.create_task(store.place(new_order(number), lease=LEASE_FOR))

    async def queue_depth_is(depth: int) -> None:
        while store.queue_depth != depth:
            await asyncio.sleep(0)

    connection.execute("BEGIN IMMEDIATE")  # holds up the batch of 1
    started = place(1)
    await queue_depth_is(1)
    await queue_depth_is(0)
    waiting = [place(2), place(3)]
    await queue_depth_is(2)
    started.cancel()
    waiting[0].cancel()
    await asyncio.wait([started, waiting[0]])
    connection.execute("ROLLBACK")
    assert await waiting[1] == new_order(3)
    assert await store.get(new_order(1).id) == new_order(1)
    with pytest.raises(OrderNotFound):
        await store.get(new_order(2).id)


async def test_a_busy_event_loop_rests_now_and_then_while_a_thread_is_at_work(
    store: EngineOrderStore, connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = asyncio.Semaphore(0)
    monkeypatch.setattr("time.sleep", lambda _: rests.release())
    connection.execute("BEGIN IMMEDIATE")
    task = asyncio.create_task(store.place(new_order(1), lease=LEASE_FOR))
    for _ in range(3):
        await rests.acquire()
    connection.execute("ROLLBACK")
    await task
    give_way = store._dialect._give_way  # type: ignore[attr-defined]  # the only trace of it
    assert give_way._timer is None, "it rests no more"


# Ends


async def test_closing_writes_all_that_waits_and_opening_again_finds_it(path: Path) -> None:
    orders = [new_order(number) for number in range(600)]
    async with open_store_for(DatabaseAddress(path=path)) as store:
        tasks = [asyncio.create_task(store.place(order, lease=LEASE_FOR)) for order in orders]
        await asyncio.sleep(0)
        assert store.queue_depth == len(orders)
    assert await asyncio.gather(*tasks) == orders
    async with open_store_for(DatabaseAddress(path=path)) as store:
        assert await store.list(OrderQuery(limit=1000)) == orders[::-1]


async def test_draining_writes_all_that_waits_and_leaves_reads_working(
    store: EngineOrderStore,
) -> None:
    task = asyncio.create_task(store.place(new_order(1), lease=LEASE_FOR))
    await asyncio.sleep(0)
    await store.drain(timeout_s=10)
    assert await task == new_order(1)
    assert await store.get(new_order(1).id) == new_order(1)
    with pytest.raises(StoreUnavailable):
        await store.place(new_order(2), lease=LEASE_FOR)


async def test_killing_the_process_loses_no_acknowledged_order(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        TESTS / "storage" / "place_forever.py",
        path,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    acknowledged = [int(await process.stdout.readline()) for _ in range(500)]
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    assert await process.wait() == -signal.SIGKILL
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith(b"\n")]

    async with open_store_for(DatabaseAddress(path=path)) as store:
        stored = await store.list(OrderQuery(limit=2**31))
        assert {new_order(number).id for number in acknowledged} <= {order.id for order in stored}
        for number, order in enumerate(reversed(stored)):
            assert order == new_order(number), "whole, with all its items"
            [change] = await store.changes(order.id, after_version=0)
            assert order.at(change) == order


# The outbox


async def test_each_version_has_one_event_in_the_order_of_commits(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    first = await store.place(new_order(1), lease=LEASE_FOR)
    await store.place(new_order(2), lease=LEASE_FOR)
    await store.place(new_order(3, request=1), lease=LEASE_FOR)  # a replay: no event
    await store.defer(first.id, delay=timedelta(0))
    await store.lease_due(lease=LEASE_FOR, limit=10)
    await store.save(first.declined("no funds", NOW))
    events = connection.execute("SELECT order_id, version, state, decline_reason FROM events")
    assert events.fetchall() == [
        (str(new_order(1).id), 1, "PENDING_PAYMENT", ""),
        (str(new_order(2).id), 1, "PENDING_PAYMENT", ""),
        (str(new_order(1).id), 2, "PAYMENT_DECLINED", "no funds"),
    ]


async def test_listeners_learn_of_each_new_version(path: Path) -> None:
    events: list[BatchEnded] = []
    async with open_store_for(DatabaseAddress(path=path), on_batch=events.append) as store:
        order = await store.place(new_order(1), lease=timedelta(0))
        await store.place(new_order(2, request=1), lease=timedelta(0))
        await store.lease_due(lease=LEASE_FOR, limit=1)
        await store.save(order.paid(NOW))
    assert [list(event.changed) for event in events] == [[order], [], [], [order.paid(NOW)]]


# What it costs


def write_at_now(connection: sqlite3.Connection, batch: list[Command[Any]]) -> None:
    write_batch(connection, batch, FakeClock())


class CountedConnection:
    """Counts the instructions of SQLite's virtual machine and the statements it runs."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.instructions = 0
        self.statements: list[str] = []
        connection.set_progress_handler(self._step, 1)
        connection.set_trace_callback(self.statements.append)

    def _step(self) -> int:
        self.instructions += 1
        return 0

    def page(self, query: OrderQuery) -> int:
        """The instructions that a page takes."""
        before = self.instructions
        sql, parameters = page_sql(query)
        self.connection.execute(sql, parameters).fetchall()
        return self.instructions - before


MIDDLE = NOW + timedelta(days=1)
"""When the orders of Ada are created and paid; those of Bob before and after wait for it."""
WINDOW = OrderQuery(
    limit=10,
    created_after=MIDDLE + timedelta(seconds=3),
    created_before=MIDDLE + timedelta(seconds=8),
)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(OrderQuery(limit=10), id="all"),
        pytest.param(OrderQuery(limit=10, customer_id="ada"), id="customer"),
        pytest.param(OrderQuery(limit=10, states=[OrderState.PAID]), id="state"),
        pytest.param(OrderQuery(limit=10, states=list(OrderState)), id="states"),
        pytest.param(
            OrderQuery(limit=10, customer_id="ada", states=[OrderState.PAID]),
            id="customer and state",
        ),
        pytest.param(WINDOW, id="times"),
        pytest.param(structs.replace(WINDOW, states=list(OrderState)), id="times and states"),
    ],
)
async def test_a_page_costs_the_same_wherever_it_is_and_however_many_orders_there_are(
    store: EngineOrderStore, connection: sqlite3.Connection, query: OrderQuery
) -> None:
    def place_around(first: int, count: int) -> None:
        """Places so many of Bob's both before and after Ada's."""
        for side, begin in (("before", NOW), ("after", MIDDLE + timedelta(days=1))):
            orders = [
                new_order(
                    number + (100_000 if side == "after" else 0),
                    customer_id="bob",
                    now=begin + timedelta(seconds=number),
                )
                for number in range(first, first + count)
            ]
            write_at_now(connection, [Place(order, LEASE_FOR) for order in orders])

    def pages() -> list[int]:
        return [
            counted.page(structs.replace(query, before=before))
            for before in (None, adas[15].id, adas[12].id)
        ]

    adas = [new_order(50_000 + n, now=MIDDLE + timedelta(seconds=n)) for n in range(20)]
    write_at_now(connection, [Place(order, LEASE_FOR) for order in adas])
    write_at_now(connection, [Save(order.paid(MIDDLE), None) for order in adas])
    place_around(0, 50)
    counted = CountedConnection(connection)
    among_few = pages()
    place_around(50, 500)
    for few, many in zip(among_few, pages(), strict=True):
        assert many <= few * 1.1


async def test_a_customer_is_looked_up_before_a_state(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    query = OrderQuery(limit=10, customer_id="ada", states=[OrderState.PAID])
    sql, parameters = page_sql(query)
    plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
    assert any("orders_by_customer" in step for *_, step in plan)
    assert not any("orders_by_state" in step for *_, step in plan)


async def test_the_backlog_costs_the_same_however_many_orders_are_at_rest(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    def cost() -> int:
        before = counted.instructions
        connection.execute(BACKLOG).fetchall()
        return counted.instructions - before

    def settle(first: int, count: int) -> None:
        orders = [new_order(number) for number in range(first, first + count)]
        write_at_now(connection, [Place(order, LEASE_FOR) for order in orders])
        write_at_now(connection, [Save(order.paid(NOW), None) for order in orders])

    write_at_now(connection, [Place(new_order(number), LEASE_FOR) for number in range(10)])
    settle(100, 50)
    counted = CountedConnection(connection)
    among_few = cost()
    settle(1000, 500)
    assert cost() <= among_few * 1.1
    plan = connection.execute(f"EXPLAIN QUERY PLAN {BACKLOG}").fetchall()
    assert any("SEARCH orders USING INDEX orders_by_lease" in step for *_, step in plan)
    assert not any("SCAN orders" in step for *_, step in plan)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [(UNPUBLISHED, ("[]", 10)), (WAITING_EVENTS, ()), (REFUSED_EVENTS, (10,))],
    ids=["unpublished", "waiting", "refused"],
)
async def test_what_the_relay_reads_does_not_grow_with_published_events(
    store: EngineOrderStore, connection: sqlite3.Connection, sql: str, parameters: tuple[Any, ...]
) -> None:
    def cost() -> int:
        before = counted.instructions
        connection.execute(sql, parameters).fetchall()
        return counted.instructions - before

    def write(batch: Sequence[Command[Any]]) -> None:
        write_batch(connection, batch, FakeClock())

    # Two of the events are refused.
    write([Place(new_order(number), LEASE_FOR) for number in range(20)])
    write([Refuse({1: "too large", 5: "too large"})])
    counted = CountedConnection(connection)
    among_few = cost()
    write([Place(new_order(number), LEASE_FOR) for number in range(100, 1100)])
    write([MarkPublished(range(21, 1021))])
    assert cost() <= among_few * 1.1


async def test_a_batch_takes_a_handful_of_statements_however_large(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    """Each step of a statement waits for the interpreter lock, long when the loop is busy."""
    counted = CountedConnection(connection)
    orders = [new_order(number) for number in range(255)]  # of no round size
    placing: list[Command[Any]] = [Place(order, timedelta(0)) for order in orders]
    write_at_now(connection, placing)
    assert len(counted.statements) <= 8
    counted.statements.clear()
    mixed: list[Command[Any]] = [Save(order.paid(NOW), None) for order in orders]
    mixed += [Defer(order.id, LEASE_FOR) for order in orders]
    mixed += [LeaseDue(LEASE_FOR, 100)]
    write_at_now(connection, mixed)
    assert len(counted.statements) <= 8


async def test_a_batch_may_have_more_rows_than_a_statement(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    items = tuple(OrderItem(f"sku-{n}", 1, Money("EUR", n)) for n in range(100))
    orders = [new_order(number, items=items) for number in range(50)]
    write_at_now(connection, [Place(order, LEASE_FOR) for order in orders])
    assert await store.list(OrderQuery(limit=100)) == orders[::-1]


async def test_a_write_costs_the_same_however_many_orders_there_are(
    store: EngineOrderStore, connection: sqlite3.Connection
) -> None:
    def write(first: int) -> int:
        """The instructions that one batch of all kinds takes, of ten orders from `first` on."""
        orders = [new_order(number) for number in range(first, first + 10)]
        write_at_now(connection, [Place(order, timedelta(0)) for order in orders])
        counted.instructions = 0
        mixed: list[Command[Any]] = [
            *(Save(order.paid(NOW), None) for order in orders[:5]),
            *(Defer(order.id, LEASE_FOR) for order in orders[5:]),
            Place(new_order(first + 10, request=first), timedelta(0)),
            LeaseDue(LEASE_FOR, 5),
        ]
        write_at_now(connection, mixed)
        return counted.instructions

    counted = CountedConnection(connection)
    among_few = write(0)
    write_at_now(
        connection, [Place(new_order(number), LONGEST_LEASE) for number in range(100, 1300)]
    )
    among_many = write(2000)
    assert among_many <= among_few * 1.1


def test_turning_the_log_on_waits_for_who_is_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own busy timeout does not cover this."""
    connection = sqlite3.connect(path, isolation_level=None)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_wal(connection, timeout_s=0)
    monkeypatch.setattr("time.sleep", lambda _: other.execute("ROLLBACK"))
    use_wal(connection, timeout_s=60)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    connection.close()
