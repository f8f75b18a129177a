from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import asyncpg
import pytest

from fakes.clock import FakeClock
from fakes.postgres import TestDatabases, postgres
from fakes.store import FakeOrderStore
from orderflow_client.resilience.breaker import Breaker
from orderflow_server.orders.ports import OrderStore
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.around import AroundOrderStore
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.storage.guarded import guarded_by, store_outcome
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect, PostgresOptions
from orderflow_server.storage.store import EngineOrderStore

__all__ = ["postgres"]


@asynccontextmanager
async def open_memory_store(clock: FakeClock) -> AsyncIterator[FakeOrderStore]:
    yield FakeOrderStore(clock)


@asynccontextmanager
async def open_guarded_store(clock: FakeClock) -> AsyncIterator[AroundOrderStore]:
    yield AroundOrderStore(
        FakeOrderStore(clock), guarded_by(Breaker("store", classify=store_outcome))
    )


@asynccontextmanager
async def open_postgres_store(
    databases: TestDatabases, clock: FakeClock
) -> AsyncIterator[EngineOrderStore]:
    async with (
        databases.new() as url,
        open_store_for(DatabaseAddress.parse(url), now=clock) as store,
    ):
        yield store


OUTBOXES: dict[
    str,
    Callable[
        [pytest.FixtureRequest, FakeClock],
        AbstractAsyncContextManager[EngineOrderStore | FakeOrderStore],
    ],
] = {
    "memory": lambda _, clock: open_memory_store(clock),
    "sqlite": lambda request, clock: open_store_for(
        DatabaseAddress(path=request.getfixturevalue("tmp_path") / "orders.db"), now=clock
    ),
    "postgres": lambda request, clock: open_postgres_store(
        request.getfixturevalue("postgres"), clock
    ),
}
BACKENDS: dict[
    str, Callable[[pytest.FixtureRequest, FakeClock], AbstractAsyncContextManager[OrderStore]]
] = {
    **OUTBOXES,
    "guarded": lambda _, clock: open_guarded_store(clock),
}


@pytest.fixture
def clock() -> FakeClock:
    """The clock of every store of a test, at NOW until it is moved."""
    return FakeClock()


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, clock: FakeClock) -> AsyncIterator[OrderStore]:
    """An empty store of each kind."""
    async with BACKENDS[request.param](request, clock) as opened:
        yield opened


@pytest.fixture(params=OUTBOXES)
async def outbox(
    request: pytest.FixtureRequest, clock: FakeClock
) -> AsyncIterator[EngineOrderStore | FakeOrderStore]:
    """An empty store of each kind that is an outbox, too."""
    async with OUTBOXES[request.param](request, clock) as opened:
        yield opened


@pytest.fixture
async def url(postgres: TestDatabases) -> AsyncIterator[str]:
    """A PostgreSQL database, empty but for its schema."""
    async with postgres.new() as made:
        yield made


@pytest.fixture
async def stores(
    url: str, clock: FakeClock
) -> AsyncIterator[tuple[EngineOrderStore, EngineOrderStore, EngineOrderStore]]:
    """Three on one database, as if in three processes."""
    errors: list[Exception | None] = []
    open_one = partial(
        open_store_for,
        DatabaseAddress.parse(url),
        now=clock,
        on_batch=lambda event: errors.append(event.error),
    )
    async with open_one() as first, open_one() as second, open_one() as third:
        yield first, second, third
    # That would have been mended, one by one, and slowly: locks are to make it needless.
    assert not any(isinstance(error, PoisonedBatch) for error in errors)


@pytest.fixture
async def dialect(url: str, clock: FakeClock) -> AsyncIterator[PostgresDialect]:
    """One in a hurry."""
    opened = PostgresDialect(
        DatabaseAddress.parse(url), PostgresOptions(statement_timeout_s=0.3, now=clock)
    )
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the store's own, like another process."""
    opened = await asyncpg.connect(url)
    yield opened
    await opened.close()
