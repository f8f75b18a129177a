"""The threads and connections, and what the database's errors mean.

One thread writes, on one connection: SQLite has one writer at a time, and waiting for it in a
queue of ours is cheaper than in SQLite's. A few threads read, each on its own connection: in
WAL mode readers and the writer do not wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple
from uuid import UUID

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import DeadlineExpired, InvalidValue, StoreUnavailable
from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import Backlog, Clock, OutboxEvent, ParkedOrder, RefusedEvent
from orderflow_server.storage.commands import Command
from orderflow_server.storage.database_file import DatabaseFile, FileLost, make_private
from orderflow_server.storage.dialect import PoisonedBatch, Written
from orderflow_server.storage.migrations import require_current_sqlite, upgrade_sqlite
from orderflow_server.storage.sqlite.giveway import GiveWay
from orderflow_server.storage.sqlite.reads import (
    get_order,
    list_changes,
    list_orders,
    list_parked,
    list_refused,
    list_unpublished,
    read_backlog,
)
from orderflow_server.storage.sqlite.writes import write_batch

T = TypeVar("T")
Args = TypeVarTuple("Args")

PRAGMAS = (
    "PRAGMA synchronous = FULL",  # a commit has returned when it is on the disk itself
    "PRAGMA foreign_keys = ON",
    # 8 MiB rather than 2: the index on request ids is hit everywhere. With 64 MiB a write over
    # half a million orders took no less time, as what SQLite does not keep is in the system's
    # memory anyway; and the process grew by each new page until they were full.
    "PRAGMA cache_size = -8192",
    # 16 MiB rather than 4: the longer the log, the more often a page in it was written over,
    # and need be copied into the database only once.
    "PRAGMA wal_autocheckpoint = 4096",
    # A log that grew, under a long read say, is cut back to 64 MiB once it is copied.
    "PRAGMA journal_size_limit = 67108864",
)
"""How each connection is set up."""

_STEPS_BETWEEN_LOOKS = 100_000
"""How often SQLite asks whether a read's deadline has passed, in steps of its virtual machine:
some milliseconds apart. An ordinary read is over before it asks at all."""

_DATA_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,  # a text that is not Unicode among them
)
"""The command is to blame. Any other sqlite3.Error: the database, the disk or the moment is."""

_INVALID_VALUES = (sqlite3.DataError, OverflowError, UnicodeEncodeError)
"""A value that the database cannot hold, whoever chose it."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class SqliteOptions:
    """How the file is used.

    Attributes:
        readers: How many reads may be under way at once.
        busy_timeout_s: How long to wait while another process writes.
        now: The clock of leases, delays and ages. All processes that use the file share a machine,
            and so its clock.
        watch_interval_s: How often to check that the file is in its place.
    """

    readers: int = 4
    busy_timeout_s: float = 5.0
    now: Clock = _utc_now
    watch_interval_s: float = 0.5

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ValueError("readers must be at least 1")
        if self.busy_timeout_s < 0:
            raise ValueError("busy_timeout_s must not be negative")
        if self.watch_interval_s <= 0:
            raise ValueError("watch_interval_s must be positive")


class SqliteDialect:
    """Implements `Dialect` over one file."""

    def __init__(self, path: Path, options: SqliteOptions) -> None:
        self._path = path
        self._options = options
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reading = ThreadPoolExecutor(options.readers, thread_name_prefix="store-reader")
        self._file: DatabaseFile | None = None
        self._writer: sqlite3.Connection | None = None
        self._idle_readers: list[sqlite3.Connection] = []
        self._give_way = GiveWay()
        self._closed = False

    async def open(self, *, existing_only: bool = False) -> None:
        await self._in_thread(self._writing, self._open, existing_only)

    async def write(self, batch: Sequence[Command[Any]]) -> Written:
        written = await self._in_thread(self._writing, self._write, batch)
        # Nobody is told of a commit into a file that nobody will find again. Not in the thread:
        # it would wait for the interpreter lock after each of the two calls of stat.
        try:
            self._opened_file.check()
        except FileLost as error:
            raise StoreUnavailable(str(error)) from error
        except OSError as error:
            raise StoreUnavailable("the database's file cannot be looked at") from error
        return written

    async def get(self, order_id: UUID) -> Order | None:
        return await self._in_reader(get_order, order_id)

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        return await self._in_reader(list_orders, query)

    async def changes(self, order_id: UUID, after_version: int) -> Sequence[OrderChange]:
        return await self._in_reader(list_changes, order_id, after_version)

    async def parked(self, limit: int, reason: str) -> Sequence[ParkedOrder]:
        return await self._in_reader(list_parked, limit, reason, self._options.now)

    async def backlog(self, *, events: bool) -> Backlog:
        return await self._in_reader(read_backlog, events, self._options.now)

    async def unpublished(
        self, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        return await self._in_reader(list_unpublished, limit, without)

    async def refused(self, limit: int) -> Sequence[RefusedEvent]:
        return await self._in_reader(list_refused, limit, self._options.now)

    async def ping(self) -> None:
        await self._in_reader(_ping)

    async def listen(
        self, on_change: Callable[[Iterable[UUID]], None], on_gap: Callable[[], None]
    ) -> None:
        """Returns at once: a file is one process's."""

    async def lost(self) -> str:
        while True:
            await asyncio.sleep(self._options.watch_interval_s)
            if self._file is None:
                continue
            try:
                # Not in the event loop: on a disk that hangs, this hangs.
                await asyncio.to_thread(self._file.check_header)
            except FileLost as error:
                return str(error)
            except OSError:
                # Whether it is lost is unknown; what reads and writes fails by itself.
                continue

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._writing, self._close)
            self._writing.shutdown()

    async def _in_reader(
        self, function: Callable[[sqlite3.Connection, *Args], T], *args: *Args
    ) -> T:
        # The deadline is read here: a context variable does not reach into the thread.
        return await self._in_thread(self._reading, self._read, deadline.current(), function, *args)

    async def _in_thread(
        self, threads: ThreadPoolExecutor, function: Callable[[*Args], T], *args: *Args
    ) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._file is not None and self._file.lost is not None:
            raise StoreUnavailable(self._file.lost)
        with self._give_way.to_a_thread():
            return await asyncio.get_running_loop().run_in_executor(threads, function, *args)

    def _open(self, existing_only: bool) -> None:
        if not existing_only:
            make_private(self._path)
        self._file = DatabaseFile(self._path)
        try:
            self._writer = self._connect()
            if existing_only:
                require_current_sqlite(self._writer)
            else:
                upgrade_sqlite(self._writer)
                use_wal(self._writer, self._options.busy_timeout_s)
            self._remember_log(self._writer)
        except sqlite3.Error as error:
            raise StoreUnavailable(
                f"the database {self._path} cannot be opened: {error}"
            ) from error

    def _write(self, batch: Sequence[Command[Any]]) -> Written:
        try:
            if self._writer is None:
                self._writer = self._connect()
                self._remember_log(self._writer)
            return write_batch(self._writer, batch, self._options.now)
        except _DATA_ERRORS as error:
            raise PoisonedBatch(invalid_value=isinstance(error, _INVALID_VALUES)) from error
        except (sqlite3.Error, OSError) as error:
            self._check_in_place(error)
            self._disconnect_writer()
            raise StoreUnavailable(f"the database could not write: {error}") from error

    def _read(
        self,
        until: Deadline | None,
        function: Callable[[sqlite3.Connection, *Args], T],
        *args: *Args,
    ) -> T:
        if until is not None and until.expired:
            raise DeadlineExpired("the deadline passed before the read began")
        try:
            # There is one idle connection or a missing one for each thread: list.pop is atomic.
            connection = self._idle_readers.pop() if self._idle_readers else self._connect()
            if until is not None:
                connection.set_progress_handler(lambda: until.expired, _STEPS_BETWEEN_LOOKS)
            try:
                result = function(connection, *args)
            except _INVALID_VALUES as error:
                # Refused before it ran: the connection is as good as before.
                connection.set_progress_handler(None, 0)
                self._idle_readers.append(connection)
                raise InvalidValue("a value cannot be searched for") from error
            if until is not None:
                connection.set_progress_handler(None, 0)
        except (sqlite3.Error, OSError) as error:
            # The connection's state is in doubt; the next read makes another.
            self._check_in_place(error)
            if until is not None and until.expired:
                raise DeadlineExpired("the deadline passed during a read") from error
            raise StoreUnavailable(f"the database could not be read: {error}") from error
        self._idle_readers.append(connection)
        return result

    @property
    def _opened_file(self) -> DatabaseFile:
        if self._file is None:
            raise StoreUnavailable("the store is not open")
        return self._file

    def _connect(self) -> sqlite3.Connection:
        file = self._opened_file
        connection = file.connect(timeout_s=self._options.busy_timeout_s)
        try:
            for pragma in PRAGMAS:
                connection.execute(pragma)
            file.check()
        except FileLost as error:
            connection.close()
            raise StoreUnavailable(str(error)) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _remember_log(self, writer: sqlite3.Connection) -> None:
        """Has the writer's connection open the log, and identifies it."""
        writer.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        self._opened_file.remember_log()

    def _check_in_place(self, cause: Exception) -> None:
        """Finds out whether an error comes of a file that is gone.

        A new connection must not be made then: SQLite would make a new log where the file was.

        Raises:
            StoreUnavailable: It does, from the cause.
        """
        try:
            self._opened_file.check()
        except FileLost as error:
            raise StoreUnavailable(str(error)) from cause
        except OSError:
            return

    def _disconnect_writer(self) -> None:
        """Gives up a connection whose state is in doubt; the next batch makes another."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._opened_file.forget_log()
            # The error that led here is the one to tell of.
            with contextlib.suppress(sqlite3.Error):
                writer.close()

    def _close(self) -> None:
        self._reading.shutdown()
        for connection in self._idle_readers:
            connection.close()
        self._idle_readers.clear()
        self._disconnect_writer()
        if self._file is not None:
            self._file.close()


def _ping(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT 1 FROM orders LIMIT 1").fetchone()


def use_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    """Turns write-ahead logging on, for good; the file remembers it."""
    give_up_at_s = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError:
            # Two processes that open a new file: SQLite does not wait for the busy timeout here.
            if time.monotonic() >= give_up_at_s:
                raise
            time.sleep(0.01)
        else:
            return
