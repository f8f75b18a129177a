"""Whose file the SQLite database is, who may read it, and whether it is still in its place."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.orders import LEASE_FOR, new_order
from fakes.postgres import TestDatabases
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.order import OrderQuery
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.apart import upgraded_apart
from orderflow_server.storage.commands import Place
from orderflow_server.storage.engine import EngineOptions
from orderflow_server.storage.opening import lacks_steps, open_store_for, upgrade
from orderflow_server.storage.sqlite import SqliteDialect, SqliteOptions
from orderflow_server.storage.store import EngineOrderStore, open_store

APPLICATION_ID = int.from_bytes(b"OFLW", "big")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EngineOrderStore]:
    dialect = SqliteDialect(path, SqliteOptions(watch_interval_s=0.01))
    async with open_store(dialect, options=EngineOptions()) as opened:
        yield opened


def run(path: Path, *statements: str) -> list[Any]:
    """Runs statements on a file as another program would; returns the last one's first row."""
    row = None
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            row = connection.execute(statement).fetchone()
    return list(row or ())


def exists(path: Path) -> bool:
    return path.exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    """All files of a directory: their bytes, modes and times of the last change.

    The bytes in the shared memory are left out: it is not kept, and has the locks of readers.
    """
    return {
        file.name: (
            b"" if file.name.endswith("-shm") else file.read_bytes(),
            file.stat().st_mode,
            0 if file.name.endswith("-shm") else file.stat().st_mtime_ns,
        )
        for file in directory.iterdir()
    }


# A new file


async def test_a_new_file_is_marked_private_and_its_log_is_bounded(
    path: Path, store: EngineOrderStore
) -> None:
    await store.place(new_order(1), lease=LEASE_FOR)
    assert {mode(Path(f"{path}{suffix}")) for suffix in ("", "-wal", "-shm")} == {0o600}
    assert run(path, "PRAGMA application_id") == [APPLICATION_ID]
    writer = store._dialect._writer  # type: ignore[attr-defined]  # a setting of the connection
    assert writer.execute("PRAGMA journal_size_limit").fetchone() == (64 * 2**20,)


async def test_a_new_file_made_by_the_migration_process_is_marked_and_private(path: Path) -> None:
    async with upgraded_apart(DatabaseAddress(path=path)):
        pass
    assert mode(path) == 0o600
    assert run(path, "PRAGMA application_id") == [APPLICATION_ID]


async def test_asking_whether_steps_are_missing_makes_no_file(path: Path) -> None:
    assert await lacks_steps(DatabaseAddress(path=path))
    assert not exists(path)


async def test_an_empty_file_is_a_new_one(path: Path) -> None:
    emptied(path)
    await upgrade(DatabaseAddress(path=path))
    assert run(path, "PRAGMA application_id") == [APPLICATION_ID]


# A file of an earlier release, or of another program


@pytest.mark.parametrize("in_use", [False, True])
async def test_a_file_of_a_release_without_the_mark_is_adopted(path: Path, in_use: bool) -> None:
    async with open_store_for(DatabaseAddress(path=path)) as store:
        order = await store.place(new_order(1), lease=LEASE_FOR)
    run(path, "PRAGMA application_id = 0", "UPDATE alembic_version SET version_num = '0004'")
    with contextlib.ExitStack() as stack:
        if in_use:
            other = stack.enter_context(contextlib.closing(sqlite3.connect(path)))
            assert other.execute("SELECT count(*) FROM orders").fetchone() == (1,)
        async with open_store_for(DatabaseAddress(path=path)) as store:
            assert await store.get(order.id) == order
            assert run(path, "PRAGMA application_id") == [APPLICATION_ID]


def other_tables(path: Path) -> None:
    run(path, "CREATE TABLE notes (text)", "INSERT INTO notes VALUES ('mine')")


def other_tables_with_a_log(path: Path) -> None:
    run(path, "PRAGMA journal_mode = WAL", "CREATE TABLE notes (text)")


def other_tables_only_in_the_log(path: Path) -> None:
    """As a program leaves it that was killed before its first checkpoint."""
    made = path.parent / "made.db"
    with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE notes (text)")
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{made}{suffix}", f"{path}{suffix}")
    made.unlink()


def other_application_id(path: Path) -> None:
    run(path, "PRAGMA application_id = 7", "CREATE TABLE notes (text)")


def other_revision(path: Path) -> None:
    run(
        path,
        "CREATE TABLE alembic_version (version_num)",
        "INSERT INTO alembic_version VALUES ('ae1027a6acf3')",
        *(f"CREATE TABLE {name} (id)" for name in ("orders", "order_items", "events")),
    )


def same_revision_other_tables(path: Path) -> None:
    run(
        path,
        "CREATE TABLE alembic_version (version_num)",
        "INSERT INTO alembic_version VALUES ('0001')",
        "CREATE TABLE orders (id)",
    )


def no_database(path: Path) -> None:
    path.write_text("Dear diary, " * 100)


def a_few_bytes(path: Path) -> None:
    path.write_text("Hello")


FOREIGN = [
    other_tables,
    other_tables_with_a_log,
    other_tables_only_in_the_log,
    other_application_id,
    other_revision,
    same_revision_other_tables,
    no_database,
    a_few_bytes,
]


@pytest.mark.parametrize("make", FOREIGN)
async def test_a_file_of_another_program_is_refused_in_one_sentence_and_not_touched(
    path: Path, make: Callable[[Path], None]
) -> None:
    make(path)
    before = contents(path.parent)
    address = DatabaseAddress(path=path)

    async def opened() -> None:
        async with open_store_for(address):
            pass

    for use in (opened, lambda: lacks_steps(address), lambda: upgrade(address)):
        with pytest.raises(StoreUnavailable) as refused:
            await use()
        assert "\n" not in str(refused.value)
        assert "another program" in str(refused.value) or "no SQLite database" in str(refused.value)
        assert contents(path.parent) == before


# Existing databases only


@pytest.mark.parametrize("missing", ["the file", "its directory", "its content"])
async def test_who_wants_an_existing_file_makes_none(path: Path, missing: str) -> None:
    if missing == "its directory":
        path = path.parent / "typo" / "orders.db"
    elif missing == "its content":
        emptied(path)
    with pytest.raises(StoreUnavailable, match=r"does not exist|has no Orderflow schema"):
        async with open_store_for(DatabaseAddress(path=path), existing_only=True):
            pass
    assert exists(path) == (missing == "its content")


async def test_who_wants_an_existing_file_changes_no_schema(path: Path) -> None:
    address = DatabaseAddress(path=path)
    await upgrade(address)
    run(path, "UPDATE alembic_version SET version_num = '0003'", "PRAGMA application_id = 0")
    before = contents(path.parent)
    with pytest.raises(StoreUnavailable, match="orderflow-server migrate"):
        async with open_store_for(address, existing_only=True):
            pass
    assert contents(path.parent) == before


async def test_an_existing_file_is_read_and_written(path: Path) -> None:
    address = DatabaseAddress(path=path)
    await upgrade(address)
    async with open_store_for(address, existing_only=True) as store:
        order = await store.place(new_order(1), lease=LEASE_FOR)
        assert await store.get(order.id) == order


async def test_who_wants_an_existing_postgresql_database_changes_no_schema(
    postgres: TestDatabases,
) -> None:
    import asyncpg

    async with postgres.new(empty=True) as url:
        address = DatabaseAddress.parse(url)
        with pytest.raises(StoreUnavailable, match="has no Orderflow schema"):
            async with open_store_for(address, existing_only=True):
                pass
        connection = await asyncpg.connect(url)
        tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert await connection.fetchval(tables) == 0
        await upgrade(address)
        async with open_store_for(address, existing_only=True) as store:
            await store.place(new_order(1), lease=LEASE_FOR)
        await connection.execute("UPDATE alembic_version SET version_num = '0003'")
        with pytest.raises(StoreUnavailable, match="orderflow-server migrate"):
            async with open_store_for(address, existing_only=True):
                pass
        await connection.execute("UPDATE alembic_version SET version_num = 'ae1027a6acf3'")
        with pytest.raises(StoreUnavailable, match="another program"):
            await upgrade(address)
        with pytest.raises(StoreUnavailable, match="another program"):
            await lacks_steps(address)
        await connection.close()


# The file goes away under a running server


def deleted(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.rename(path)


def emptied(path: Path) -> None:
    path.write_bytes(b"")  # the same file, with nothing in it


def overwritten(path: Path) -> None:
    other_application_id(path.with_name("other.db"))
    with path.open("r+b") as file:
        file.write(path.with_name("other.db").read_bytes())


def log_deleted(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def log_replaced(path: Path) -> None:
    log = Path(f"{path}-wal")
    copy = path.with_name("copy.db-wal")
    shutil.copy(log, copy)
    copy.rename(log)


def all_deleted(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()


GONE = [deleted, moved, replaced, emptied, log_deleted, log_replaced, all_deleted]


@pytest.mark.parametrize("happens", GONE)
async def test_no_order_is_acknowledged_into_a_file_that_is_gone(
    path: Path, happens: Callable[[Path], None]
) -> None:
    dialect = SqliteDialect(path, SqliteOptions())  # nobody watches: only the batches look
    async with open_store(dialect, options=EngineOptions()) as store:
        await store.place(new_order(1), lease=LEASE_FOR)
        assert await store.list(OrderQuery(limit=1)) == [new_order(1)]
        happens(path)
        results = await asyncio.gather(
            *(store.place(new_order(number), lease=LEASE_FOR) for number in range(2, 50)),
            return_exceptions=True,
        )
        assert {type(result) for result in results} == {StoreUnavailable}
        with pytest.raises(StoreUnavailable, match=r"orders\.db"):
            await store.get(new_order(1).id)
    assert exists(path) == (happens not in (deleted, moved, all_deleted)), "none is made"
    if happens is replaced:
        assert run(path, "PRAGMA integrity_check") == ["ok"]


@pytest.mark.parametrize("happens", [*GONE, overwritten])
async def test_a_file_that_goes_away_is_noticed_without_any_call(
    path: Path, store: EngineOrderStore, happens: Callable[[Path], None]
) -> None:
    await store.place(new_order(1), lease=LEASE_FOR)
    lost = asyncio.create_task(store.lost())
    await asyncio.sleep(0.05)
    assert not lost.done(), "as long as it is there"
    happens(path)
    reason = await lost
    assert "orders.db" in reason
    with pytest.raises(StoreUnavailable) as failure:
        await store.place(new_order(2), lease=LEASE_FOR)
    assert str(failure.value) == reason
    with pytest.raises(StoreUnavailable):
        await store.ping()


async def test_a_file_that_another_process_uses_too_stays_in_its_place(
    path: Path, store: EngineOrderStore
) -> None:
    lost = asyncio.create_task(store.lost())
    for number in range(5):
        await store.place(new_order(number), lease=LEASE_FOR)
        run(path, "PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "ANALYZE")
    # A connection of its own, which begins a new one after an error, too.
    store._dialect._disconnect_writer()  # type: ignore[attr-defined]  # as after an error
    await store.place(new_order(9), lease=LEASE_FOR)
    await asyncio.sleep(0.05)
    assert not lost.done()
    lost.cancel()


async def test_a_log_that_ends_with_its_last_connection_is_no_loss(path: Path) -> None:
    dialect = SqliteDialect(path, SqliteOptions(watch_interval_s=0.001))
    await dialect.open()
    await dialect.write([Place(new_order(1), LEASE_FOR)])
    lost = asyncio.create_task(dialect.lost())
    dialect._disconnect_writer()  # as after an error
    assert not exists(Path(f"{path}-wal"))
    await asyncio.sleep(0.05)
    await dialect.write([Place(new_order(2), LEASE_FOR)])
    await asyncio.sleep(0.05)
    assert not lost.done()
    lost.cancel()
    await dialect.close()


async def test_a_path_through_a_link_is_watched_as_well(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(path)
    dialect = SqliteDialect(link, SqliteOptions(watch_interval_s=0.01))
    async with open_store(dialect, options=EngineOptions()) as store:
        await store.place(new_order(1), lease=LEASE_FOR)
        assert mode(path) == 0o600
        lost = asyncio.create_task(store.lost())
        await asyncio.sleep(0.03)
        assert not lost.done()
        link.unlink()
        link.symlink_to(tmp_path / "another.db")
        assert "link.db" in await lost
