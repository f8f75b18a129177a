"""How a database is brought up to date."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory

from fakes.clock import FakeClock
from fakes.orders import LEASE, LEASE_FOR, NOW, new_order
from fakes.postgres import TestDatabases
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ports import REPEATED_ATTEMPTS, Waiting
from orderflow_server.storage import migrations
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.apart import upgraded_apart
from orderflow_server.storage.opening import lacks_steps, open_store_for, upgrade
from orderflow_server.storage.sqlite.bulk import Bulk
from orderflow_server.storage.sqlite.rows import event_row, item_rows, micros, order_row
from orderflow_server.storage.sqlite.writes import INSERT_EVENTS, INSERT_ITEMS, INSERT_ORDERS

OPEN = """
import asyncio, sys
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for

async def main():
    async with open_store_for(DatabaseAddress.parse(sys.argv[1])) as store:
        await store.ping()

def run():
    asyncio.run(main())
"""


async def create(path: Path) -> None:
    async with open_store_for(DatabaseAddress(path=path)):
        pass


def test_the_head_in_the_code_is_the_last_of_the_steps() -> None:
    config = Config()
    config.set_main_option("script_location", "orderflow_server.storage:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


async def test_a_new_file_is_made_and_uses_a_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    await create(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
        (migrations.HEAD,)
    ]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_a_database_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    await create(path)
    loaded = "print(sorted({'alembic', 'sqlalchemy'} & sys.modules.keys()))"
    program = f"{OPEN}\nrun()\n{loaded}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, path, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"[]\n")


async def test_processes_that_start_at_once_on_a_new_file_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    # All is imported before the start is given, so that they really meet.
    program = f"{OPEN}\nimport alembic.command\nprint('ready', flush=True)\ninput()\nrun()"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * 2, ends


async def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE events (sequence INTEGER)")  # in the way of the last table
    with pytest.raises(sqlite3.OperationalError, match="events"):
        migrations.upgrade_sqlite(connection)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("events",)]
    assert not connection.in_transaction
    connection.close()


# PostgreSQL


async def test_replicas_that_start_at_once_on_an_empty_database_all_succeed(
    postgres: TestDatabases,
) -> None:
    async with postgres.new(empty=True) as url:
        address = DatabaseAddress.parse(url)
        async with AsyncExitStack() as stack:
            stores = await asyncio.gather(
                *(stack.enter_async_context(open_store_for(address)) for _ in range(5))
            )
            order = await stores[0].place(new_order(1), lease=LEASE_FOR)
            assert [await store.get(order.id) for store in stores] == [order] * 5


async def test_both_kinds_have_the_same_tables_columns_and_indexes(
    tmp_path: Path, connection: asyncpg.Connection
) -> None:
    await create(tmp_path / "orders.db")
    file = sqlite3.connect(tmp_path / "orders.db")
    columns = file.execute("""
        SELECT t.name, c.name FROM sqlite_master AS t, pragma_table_info(t.name) AS c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%'
    """).fetchall()
    indexes = file.execute("""
        SELECT name FROM sqlite_master WHERE type = 'index' AND name NOT LIKE 'sqlite_%'
    """).fetchall()
    file.close()
    assert sorted(columns) == sorted(
        tuple(row)
        for row in await connection.fetch("""
            SELECT table_name, column_name FROM information_schema.columns
            WHERE table_schema = 'public'
        """)
    )
    names = {row[0] for row in await connection.fetch("SELECT indexname FROM pg_indexes")}
    assert {name for (name,) in indexes} <= names


async def test_a_step_that_fails_leaves_the_database_as_it_was(postgres: TestDatabases) -> None:
    async with postgres.new(empty=True) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE events (sequence INTEGER)")
        with pytest.raises(StoreUnavailable) as failure:
            await upgrade(DatabaseAddress.parse(url))
        assert isinstance(failure.value.__cause__, asyncpg.DuplicateTableError)
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        assert [tuple(row) for row in await connection.fetch(tables)] == [("events",)]
        await connection.close()


# One version forward


async def set_revision(database: DatabaseAddress, revision: str) -> None:
    if database.path is not None:
        with contextlib.closing(sqlite3.connect(database.path)) as file:
            file.execute("UPDATE alembic_version SET version_num = ?", (revision,))
            file.commit()
    else:
        connection = await asyncpg.connect(database.url)
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
        await connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
async def database(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[DatabaseAddress]:
    """A database of each kind, up to date."""
    if request.param == "sqlite":
        await upgrade(DatabaseAddress(path=tmp_path / "orders.db"))
        yield DatabaseAddress(path=tmp_path / "orders.db")
    else:
        databases: TestDatabases = request.getfixturevalue("postgres")
        async with databases.new() as url:
            yield DatabaseAddress.parse(url)


async def test_a_server_works_on_a_schema_that_is_one_step_ahead_and_says_so(
    database: DatabaseAddress,
) -> None:
    await set_revision(database, f"{int(migrations.HEAD) + 1:04}")
    with structlog.testing.capture_logs() as lines:
        async with open_store_for(database) as store:
            order = await store.place(new_order(1), lease=LEASE_FOR)
            assert await store.get(order.id) == order
    [line] = lines
    assert (line["log_level"], line["known"]) == ("warning", migrations.HEAD)


async def test_a_server_refuses_a_schema_that_is_further_ahead(database: DatabaseAddress) -> None:
    await set_revision(database, f"{int(migrations.HEAD) + 2:04}")
    with pytest.raises(StoreUnavailable, match=f"this server knows {migrations.HEAD}"):
        async with open_store_for(database):
            pass


BEFORE_INSERT_ORDERS = Bulk.insert("orders", *INSERT_ORDERS.columns[:-1])
"""As the release before writes an order: without `awaiting_since`."""


async def test_a_server_of_the_release_before_works_on_this_schema(
    tmp_path: Path, clock: FakeClock
) -> None:
    """What it runs, which knows nothing of parking and publishing, and what is made of that."""
    path = tmp_path / "orders.db"
    async with open_store_for(DatabaseAddress(path=path), now=clock) as store:
        before = sqlite3.connect(path, isolation_level=None)
        order = new_order(1)
        for number in (1, 2):
            written = new_order(number)
            order_id = str(written.id)
            BEFORE_INSERT_ORDERS.run(
                before, [order_row(written, order_id, micros(NOW), LEASE_FOR)[:-1]]
            )
            INSERT_ITEMS.run(before, item_rows(written, order_id))
            INSERT_EVENTS.run(before, [event_row(written, order_id)])
        assert [event.order for event in await store.unpublished(limit=9)] == [
            new_order(1),
            new_order(2),
        ]
        await store.park(order.id, reason="stuck")
        clock.now = LEASE
        assert (await store.backlog()).orders == {
            OrderState.PENDING_PAYMENT: Waiting(1, LEASE_FOR)
        }, "since the order's own time"
        leased = await store.lease_due(lease=LEASE_FOR, limit=9)
        assert [each.order for each in leased] == [new_order(2)]
        before.execute(
            "UPDATE orders SET state = 'PAID', version = 2, lease_until = NULL WHERE id = ?",
            (str(order.id),),
        )
        before.close()
        assert list(await store.parked(limit=9)) == []
        assert not await store.release(order.id)
        assert (await store.backlog()).parked == 0


async def test_the_index_of_repeated_orders_has_those_that_leasing_calls_repeated(
    tmp_path: Path, url: str
) -> None:
    path = tmp_path / "orders.db"
    await upgrade(DatabaseAddress(path=path))
    with contextlib.closing(sqlite3.connect(path)) as file:
        query = "SELECT sql FROM sqlite_master WHERE name = 'orders_repeated_by_lease'"
        (made,) = file.execute(query).fetchone()
    assert f"lease_attempts >= {REPEATED_ATTEMPTS}" in made
    connection = await asyncpg.connect(url)
    made = await connection.fetchval("SELECT pg_get_indexdef('orders_repeated_by_lease'::regclass)")
    assert f"(lease_attempts >= {REPEATED_ATTEMPTS})" in made
    await connection.close()


# In a process of its own


async def test_the_other_process_ends_with_the_block_that_is_given_up(tmp_path: Path) -> None:
    address = DatabaseAddress(path=tmp_path / "orders.db")
    before = children()
    during = before

    async def given_up() -> None:
        nonlocal during
        async with upgraded_apart(address):
            during = children()
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await given_up()
    assert before == children() != during
    assert await lacks_steps(address)


def children() -> list[str]:
    """The processes that this one's first thread has started and that have not ended."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


async def test_a_database_that_is_up_to_date_or_none_at_all_needs_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(tmp_path / "orders.db")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    async with upgraded_apart(DatabaseAddress(path=tmp_path / "orders.db")):
        pass
    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        async with upgraded_apart(DatabaseAddress(path=Path(__file__))):
            pass
