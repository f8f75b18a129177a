"""The connections: who writes on which, who reads, and what becomes of them when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from uuid import UUID

import asyncpg

from orderflow_client.resilience import deadline
from orderflow_server.orders.errors import DeadlineExpired, StoreUnavailable
from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import Backlog, OutboxEvent, ParkedOrder, RefusedEvent
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import Command
from orderflow_server.storage.dialect import PoisonedBatch, Written
from orderflow_server.storage.migrations import require_current_postgres, upgrade_postgres
from orderflow_server.storage.postgres import reads
from orderflow_server.storage.postgres.connecting import (
    FAILURES,
    Connection,
    Connector,
    PostgresOptions,
    cut_off_after,
)
from orderflow_server.storage.postgres.listening import listen
from orderflow_server.storage.postgres.writes import write_batch

_GOODBYE_S = 1.0
"""How long the server may take to agree to the end of a connection or a statement."""

T = TypeVar("T")
P = ParamSpec("P")


class PostgresDialect:
    """Implements `Dialect` over one database, which any number of processes share.

    Batches may be under way at once, each on a connection of its own: as many as the engine has
    writers. A connection on which anything failed but the data is given up, and the next batch or
    read makes another.
    """

    def __init__(
        self,
        address: DatabaseAddress,
        options: PostgresOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connector = Connector(address, options, clock=clock)
        self._options = options
        self._idle_writers: list[Connection] = []
        self._readers: asyncpg.Pool | None = None
        self._closed = False

    async def open(self, *, existing_only: bool = False) -> None:
        with self._connector.failing("cannot be opened"):
            if existing_only:
                await require_current_postgres(self._connector.connect)
            else:
                await upgrade_postgres(
                    lambda: self._connector.connect(timeout_s=self._options.upgrade_timeout_s)
                )
            self._readers = await asyncpg.create_pool(
                min_size=1,
                max_size=self._options.readers,
                reset=_nothing_to_reset,
                connection_class=Connection,
                connect=self._connect_reader,
            )

    async def write(self, batch: Sequence[Command[Any]]) -> Written:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        connection = await self._writer()
        try:
            with (
                self._connector.writing(),
                cut_off_after(self._options.statement_timeout_s, connection),
            ):
                written = await write_batch(connection, batch, self._now())
        except PoisonedBatch:
            self._idle_writers.append(connection)
            raise
        except BaseException:
            connection.terminate()
            raise
        self._idle_writers.append(connection)
        return written

    async def get(self, order_id: UUID) -> Order | None:
        return await self._read(reads.get_order, order_id)

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        return await self._read(reads.list_orders, query)

    async def changes(self, order_id: UUID, after_version: int) -> Sequence[OrderChange]:
        return await self._read(reads.list_changes, order_id, after_version)

    async def parked(self, limit: int, reason: str) -> Sequence[ParkedOrder]:
        return await self._read(reads.list_parked, limit, reason, now=self._now())

    async def backlog(self, *, events: bool) -> Backlog:
        return await self._read(reads.read_backlog, events=events, now=self._now())

    async def unpublished(
        self, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        return await self._read(reads.list_unpublished, limit, without)

    async def refused(self, limit: int) -> Sequence[RefusedEvent]:
        return await self._read(reads.list_refused, limit, now=self._now())

    async def ping(self) -> None:
        await self._read(reads.ping)

    async def listen(
        self, on_change: Callable[[Iterable[UUID]], None], on_gap: Callable[[], None]
    ) -> None:
        await listen(self._connector.connect, on_change, on_gap, check=self._connector.takes_writes)

    async def lost(self) -> str:
        await asyncio.Event().wait()
        raise AssertionError  # nobody sets it

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._idle_writers:
            connection = self._idle_writers.pop()
            with cut_off_after(_GOODBYE_S, connection), contextlib.suppress(*FAILURES):
                await connection.close()
        if self._readers is not None:
            try:
                async with asyncio.timeout(self._options.statement_timeout_s):
                    await self._readers.close()
            except FAILURES:
                self._readers.terminate()

    def _now(self) -> datetime | None:
        """The time of the next statements; None: the server's own."""
        return None if self._options.now is None else self._options.now()

    async def _writer(self) -> Connection:
        while self._idle_writers:
            connection = self._idle_writers.pop()
            usable = False
            try:
                usable = not connection.is_closed() and await self._connector.checked(connection)
            finally:
                if not usable:
                    connection.terminate()
            if usable:
                return connection
        return await self._connector.connect()

    async def _connect_reader(self, *_args: object, **_kwargs: object) -> Connection:
        """Connect for the pool, whose arguments are the connector's to choose."""
        return await self._connector.connect()

    @contextlib.asynccontextmanager
    async def _reader(self, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
        """A connection of the pool, which gets it back, or makes another when it is in doubt."""
        while True:
            # The proxy that the pool gives passes everything on to the connection.
            proxy = await pool.acquire()
            connection = cast("Connection", proxy)
            try:
                if await self._connector.checked(connection):
                    yield connection
                    return
                with contextlib.suppress(asyncpg.InterfaceError):  # It has ended already.
                    connection.terminate()
            finally:
                # A statement that was cancelled is awaited there: when the request to cancel it
                # came before the statement, it runs on. Then the connection is ended, and how is
                # nobody's concern.
                with contextlib.suppress(*FAILURES):
                    await pool.release(proxy, timeout=_GOODBYE_S)

    async def _read(
        self,
        function: Callable[Concatenate[reads.Connection, P], Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        if self._closed or self._readers is None:
            raise StoreUnavailable("the store is closed")
        until = deadline.current()
        if until is not None and until.expired:
            raise DeadlineExpired("the deadline passed before the read began")
        timeout_s = self._options.statement_timeout_s
        if until is not None:
            timeout_s = min(timeout_s, until.remaining_s())
        try:
            with self._connector.reading():
                async with asyncio.timeout(timeout_s), self._reader(self._readers) as connection:
                    return await function(connection, *args, **kwargs)
        except StoreUnavailable as error:
            if until is not None and until.expired:
                raise DeadlineExpired("the deadline passed during a read") from error
            raise


async def _nothing_to_reset(_: object) -> None:
    """A read leaves nothing behind on its connection."""
