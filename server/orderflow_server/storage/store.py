"""The store that the domain uses: writes go through the engine, reads straight to the dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

from orderflow_server.orders.errors import InvalidValue, OrderNotFound
from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import (
    Backlog,
    LeasedOrder,
    OutboxEvent,
    ParkedOrder,
    RefusedEvent,
)
from orderflow_server.storage.commands import (
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
from orderflow_server.storage.dialect import Dialect
from orderflow_server.storage.engine import BatchEnded, EngineOptions, WriteEngine


def check_text(*texts: str) -> None:
    """Check that every database can store these texts.

    It is done before a write joins a batch: a database that refuses one command of a batch makes
    all others of it be written one by one. SQLite would accept NUL; all stores agree instead.

    Raises:
        InvalidValue: A text has a NUL or is not Unicode.
    """
    for text in texts:
        if "\0" in text:
            raise InvalidValue("a text has a NUL")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InvalidValue("a text is not Unicode") from error


class EngineOrderStore:
    """Implements `OrderStore` and `Outbox` over an engine and the dialect that it writes to."""

    def __init__(self, dialect: Dialect, engine: WriteEngine) -> None:
        self._dialect = dialect
        self._engine = engine

    @property
    def queue_depth(self) -> int:
        """How many writes wait for a batch."""
        return self._engine.queue_depth

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        check_text(order.customer_id, order.payment_token, *(item.sku for item in order.items))
        return await self._engine.submit(Place(order, lease))

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        await self._engine.submit(Save(order, lease))

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        await self._engine.submit(Defer(order_id, delay))

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        return await self._engine.submit(LeaseDue(lease, limit, repeated))

    async def park(self, order_id: UUID, *, reason: str) -> None:
        await self._engine.submit(Park(order_id, reason))

    async def release(self, order_id: UUID) -> bool:
        return await self._engine.submit(Release(order_id))

    async def parked(self, *, limit: int, reason: str = "") -> Sequence[ParkedOrder]:
        return await self._dialect.parked(limit, reason)

    async def get(self, order_id: UUID) -> Order:
        order = await self._dialect.get(order_id)
        if order is None:
            raise OrderNotFound(order_id)
        return order

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        if query.customer_id is not None:
            check_text(query.customer_id)
        return await self._dialect.list(query)

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        return await self._dialect.changes(order_id, after_version)

    async def backlog(self, *, events: bool = False) -> Backlog:
        return await self._dialect.backlog(events=events)

    async def ping(self) -> None:
        await self._dialect.ping()

    async def probe(self) -> None:
        await self._engine.submit(Probe())

    async def take_lease(self, name: str, *, holder: str, lease: timedelta) -> bool:
        return await self._engine.submit(TakeLease(name, holder, lease))

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        await self._engine.submit(GiveUpLease(name, holder))

    async def unpublished(
        self, *, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        return await self._dialect.unpublished(limit, without)

    async def mark_published(self, sequences: Sequence[int]) -> None:
        await self._engine.submit(MarkPublished(sequences))

    async def refuse(self, reasons: Mapping[int, str]) -> None:
        await self._engine.submit(Refuse(reasons))

    async def refused(self, *, limit: int) -> Sequence[RefusedEvent]:
        return await self._dialect.refused(limit)

    async def retry_refused(self, sequences: Sequence[int] | None = None) -> Sequence[int]:
        return await self._engine.submit(RetryRefused(sequences))

    async def skip_refused(self, sequences: Sequence[int]) -> Sequence[int]:
        return await self._engine.submit(SkipRefused(sequences))

    async def listen(
        self, on_change: Callable[[Iterable[UUID]], None], on_gap: Callable[[], None]
    ) -> None:
        """Tells of orders that any process changed; see `Dialect.listen`."""
        await self._dialect.listen(on_change, on_gap)

    async def lost(self) -> str:
        """Returns, with the reason, when the database is gone for good; see `Dialect.lost`."""
        return await self._dialect.lost()

    async def drain(self, *, timeout_s: float) -> None:
        """Refuses new writes and returns when those that wait are on disk, or after `timeout_s`.

        What was not written by then fails with StoreUnavailable. Reads go on working.
        """
        await self._engine.close(timeout_s=timeout_s)


@asynccontextmanager
async def open_store(
    dialect: Dialect,
    *,
    options: EngineOptions,
    on_batch: Callable[[BatchEnded], None] = lambda _: None,
    origin: Callable[[], Any] = lambda: None,
    calls_under_way: Callable[[], int] = lambda: 0,
    drain_timeout_s: float = 10.0,
    existing_only: bool = False,
) -> AsyncIterator[EngineOrderStore]:
    """A store that is open, and up to date in its schema, until the context ends.

    Then all that waits is written, for at most `drain_timeout_s`, and the database is closed.
    `existing_only`: as for `Dialect.open`.

    Raises:
        StoreUnavailable: The database cannot be opened.
    """
    engine = WriteEngine(
        dialect.write,
        options=options,
        on_batch=on_batch,
        origin=origin,
        calls_under_way=calls_under_way,
    )
    try:
        await dialect.open(existing_only=existing_only)
        engine.start()
        yield EngineOrderStore(dialect, engine)
    finally:
        try:
            await engine.close(timeout_s=drain_timeout_s)
        finally:
            await dialect.close()
