"""Which dialect an address means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.ports import Clock
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.dialect import Dialect
from orderflow_server.storage.engine import BatchEnded, EngineOptions
from orderflow_server.storage.migrations import postgres_lacks_steps, sqlite_lacks_steps
from orderflow_server.storage.sqlite import SqliteDialect, SqliteOptions
from orderflow_server.storage.store import EngineOrderStore, open_store

POSTGRES_WRITERS = 2
"""More than one, so that a batch is made ready while another is being committed; see
`bench/postgres.py`."""
POSTGRES_COMMIT_DELAY_S = 0.005
"""Half of what it is for SQLite, where a batch costs more."""


def open_store_for(
    database: DatabaseAddress,
    *,
    max_queue: int = 4096,
    on_batch: Callable[[BatchEnded], None] = lambda _: None,
    origin: Callable[[], Any] = lambda: None,
    calls_under_way: Callable[[], int] = lambda: 0,
    existing_only: bool = False,
    now: Clock | None = None,
) -> AbstractAsyncContextManager[EngineOrderStore]:
    """`open_store` over the database at an address.

    A SQLite file is created unless it exists; its directory is not, nor is a database. With
    `existing_only` nothing is created or migrated, and a missing file or an older schema is an
    error. `now` is the clock of leases and ages, for tests. None: the database's.
    """
    return open_store(
        _dialect(database, now),
        options=(
            EngineOptions(max_queue=max_queue)
            if database.path is not None
            else EngineOptions(
                max_queue=max_queue,
                writers=POSTGRES_WRITERS,
                commit_delay_s=POSTGRES_COMMIT_DELAY_S,
            )
        ),
        on_batch=on_batch,
        origin=origin,
        calls_under_way=calls_under_way,
        existing_only=existing_only,
    )


def open_failure(database: DatabaseAddress, error: StoreUnavailable) -> str:
    """Return why a database cannot be opened as one sentence that names it once."""
    text = str(error)
    return text if str(database) in text else f"cannot open the database {database}: {text}"


async def upgrade(database: DatabaseAddress) -> None:
    """Brings the schema up to date, as opening a store does, and does nothing else.

    Raises:
        StoreUnavailable: The database cannot be opened, or its schema is too far ahead.
    """
    dialect = _dialect(database)
    try:
        await dialect.open()
    finally:
        await dialect.close()


async def lacks_steps(database: DatabaseAddress) -> bool:
    """Says whether `upgrade` would have something to do.

    Raises:
        StoreUnavailable: The database cannot be opened.
    """
    if database.path is not None:
        return await asyncio.to_thread(sqlite_lacks_steps, database.path)
    from orderflow_server.storage.postgres.connecting import Connector, PostgresOptions

    connector = Connector(database, PostgresOptions())
    with connector.failing("cannot be opened"):
        return await postgres_lacks_steps(connector.connect)


def _dialect(database: DatabaseAddress, now: Clock | None = None) -> Dialect:
    if database.path is not None:
        options = SqliteOptions() if now is None else SqliteOptions(now=now)
        return SqliteDialect(database.path, options)
    # asyncpg is 3 MB that a server with a file does without.
    from orderflow_server.storage.postgres import PostgresDialect, PostgresOptions

    return PostgresDialect(database, PostgresOptions(now=now))
