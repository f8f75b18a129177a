from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from fakes.store import FakeOrderStore
from orderflow_client.resilience.breaker import Breaker
from orderflow_server.orders.ports import OrderStore
from orderflow_server.storage.around import AroundOrderStore
from orderflow_server.storage.guarded import guarded_by, store_outcome
from orderflow_server.storage.store import open_sqlite_store


@asynccontextmanager
async def open_memory_store() -> AsyncIterator[FakeOrderStore]:
    yield FakeOrderStore()


@asynccontextmanager
async def open_guarded_store() -> AsyncIterator[AroundOrderStore]:
    yield AroundOrderStore(FakeOrderStore(), guarded_by(Breaker("store", classify=store_outcome)))


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[OrderStore]]] = {
    "memory": lambda _: open_memory_store(),
    "guarded": lambda _: open_guarded_store(),
    "sqlite": lambda directory: open_sqlite_store(directory / "orders.db"),
}


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OrderStore]:
    """An empty store of each kind."""
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened
