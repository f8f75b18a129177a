"""Group commit: commands that wait at the same time are written in one transaction.

A caller hands over a command and waits for its result; a writer takes all that waits, writes
it as one batch and gives each caller its own result. What arrives meanwhile is the next batch,
so batches grow with the load and nobody waits for company where there was none.

Where many calls are under way each waits for the CPU, and batches cost much of that: two threads
or two processes wake each other up for every step. Then a batch begins a while after one that was
of several, and is the larger for it. PostgreSQL has the same for commits, by the same names
(https://www.postgresql.org/docs/current/runtime-config-wal.html#GUC-COMMIT-DELAY).

The write belongs to the writer and not to the caller: a cancelled caller only stops waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orderflow_client.resilience import deadline as ambient
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import (
    DeadlineExpired,
    InvalidValue,
    OrderError,
    StoreOverloaded,
    StoreUnavailable,
)
from orderflow_server.orders.order import Order
from orderflow_server.storage.commands import Command
from orderflow_server.storage.dialect import PoisonedBatch, Written

T = TypeVar("T")

_FIRST_BATCH_AFTER_FAILURE = 16
"""The most commands in a batch after one that failed, so that the backlog of an outage does not
overload a database that has just come back. It doubles with each batch that is written."""

WriteBatch = Callable[[Sequence[Command[Any]]], Awaitable[Written]]
"""Writes a batch in one transaction; see `Dialect.write`."""


class CommandFailed(Exception):
    """A command cannot be written and repeating it will not help: a defect, from its cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How much may wait, and how it is written.

    Attributes:
        max_queue: The most commands to wait; beyond that StoreOverloaded.
        max_batch: The most commands in one transaction; after a failure fewer, for a few batches.
        writers: How many batches may be under way at once.
        commit_delay_s: While calls are many: how long after a batch of several the next begins, at
            least, unless a full one waits already.
        commit_siblings: How many calls are many.
    """

    max_queue: int = 4096
    max_batch: int = 256
    writers: int = 1
    commit_delay_s: float = 0.01
    commit_siblings: int = 16

    def __post_init__(self) -> None:
        if min(self.max_queue, self.max_batch, self.writers) < 1:
            raise ValueError("max_queue, max_batch and writers must be at least 1")
        if self.commit_delay_s < 0 or self.commit_siblings < 1:
            raise ValueError("commit_delay_s must not be negative, commit_siblings at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEnded:
    """What listeners are told after each transaction.

    Attributes:
        changed: The new versions.
        origins: What `origin` said of each command when it was submitted, if not None.
        error: Why nothing was written, or why that is unknown; None when all is on disk.
        waiting: How many commands wait for the next one.
        began_s: When the transaction began, by `time.monotonic`.
    """

    size: int
    changed: Sequence[Order]
    origins: Sequence[Any]
    error: Exception | None
    waiting: int
    began_s: float
    duration_s: float


# Not frozen, though nothing changes it: see `Deadline`.
@dataclass(slots=True, eq=False)
class _Waiting:
    """A command whose caller waits for the future."""

    command: Command[Any]
    deadline: Deadline | None
    future: asyncio.Future[Any]
    origin: Any

    def may_start(self) -> bool:
        """Says whether anybody still wants it done; the caller is told when it is too late."""
        if self.future.done():
            return False
        if self.deadline is not None and self.deadline.expired:
            self.future.set_exception(DeadlineExpired("the deadline passed before the write began"))
            return False
        return True

    def resolve(self, outcome: object) -> None:
        if self.future.done():
            return
        if isinstance(outcome, OrderError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def fail(self, error: Exception, cause: BaseException | None = None) -> None:
        if not self.future.done():
            error.__cause__ = cause
            self.future.set_exception(error)


class WriteEngine:
    """Writes commands in batches. Use within the event loop that started it.

    It never repeats a batch that failed: whether that is safe is for the caller to know.
    """

    def __init__(
        self,
        write: WriteBatch,
        *,
        options: EngineOptions,
        on_batch: Callable[[BatchEnded], None] = lambda _: None,
        origin: Callable[[], Any] = lambda: None,
        calls_under_way: Callable[[], int] = lambda: 0,
    ) -> None:
        """Does nothing until `start`.

        Args:
            write: The dialect's.
            options: How much may wait, and how it is written.
            on_batch: Called in the event loop after each transaction.
            origin: Called by the submitting task; says where the command comes from, so that
                who listens can tell which calls a batch served.
            calls_under_way: How many calls the process serves, whether they write or not.
        """
        self._write_batch = write
        self._options = options
        self._on_batch = on_batch
        self._origin = origin
        self._calls_under_way = calls_under_way
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._batch_limit = options.max_batch
        self._next_batch_s = 0.0
        self._writers: list[asyncio.Task[None]] = []

    @property
    def queue_depth(self) -> int:
        """How many commands wait for a batch."""
        return len(self._queue)

    def start(self) -> None:
        self._writers = [
            asyncio.create_task(self._run(), name=f"store-writer-{number}")
            for number in range(self._options.writers)
        ]

    async def submit(self, command: Command[T]) -> T:
        """Has a command written, unless the ambient deadline passes before that begins.

        Raises:
            OrderError: The command was refused; see the command.
            StoreOverloaded: Too much is waiting; it was not written.
            DeadlineExpired: The deadline passed; it was not written and never will be.
            StoreUnavailable: The store failed or is closing.
            InvalidValue: The store cannot hold one of its values.
            CommandFailed: Its data cannot be written, which is a defect of this program.
        """
        if self._closing.is_set():
            raise StoreUnavailable("the store is closing, nothing was written")
        if len(self._queue) >= self._options.max_queue:
            raise StoreOverloaded(f"{len(self._queue)} writes are waiting already")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(command, ambient.current(), future, self._origin()))
        self._wake.set()
        return await future

    async def close(self, *, timeout_s: float) -> None:
        """Takes no new commands, writes what waits, and ends; again: does nothing.

        What is not written after `timeout_s` fails with StoreUnavailable.
        """
        self._closing.set()
        self._wake.set()
        if self._writers:
            _, late = await asyncio.wait(self._writers, timeout=timeout_s)
            for writer in late:
                writer.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        while self._queue:
            unwritten = StoreUnavailable("the store closed before the write began")
            self._queue.popleft().fail(unwritten)

    async def _run(self) -> None:
        """One writer: batch after batch until the engine is closing and nothing waits."""
        while True:
            while not self._queue:
                if self._closing.is_set():
                    return
                self._wake.clear()
                await self._wake.wait()
            await self._delay()
            batch = self._take()
            try:
                await self._write(batch)
            finally:
                for waiting in batch:  # Only when this task was cancelled is one left.
                    waiting.fail(StoreUnavailable("the store closed during the write"))

    async def _delay(self) -> None:
        """Returns when a batch may begin."""
        delay_s = self._next_batch_s - time.monotonic()
        if delay_s > 0 and len(self._queue) < self._batch_limit:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._closing.wait()

    def _take(self) -> list[_Waiting]:
        """All that waits and may start, up to a full batch."""
        batch: list[_Waiting] = []
        while self._queue and len(batch) < self._batch_limit:
            waiting = self._queue.popleft()
            if waiting.may_start():
                batch.append(waiting)
        if len(batch) > 1 and self._calls_under_way() >= self._options.commit_siblings:
            self._next_batch_s = time.monotonic() + self._options.commit_delay_s
        return batch

    async def _write(self, batch: list[_Waiting]) -> None:
        """Writes a batch, or its commands one by one when one of them spoils it for the others."""
        if not batch:
            return
        began_s = time.monotonic()
        changed: Sequence[Order] = ()
        failure: Exception | None = None
        try:
            written = await self._write_batch([waiting.command for waiting in batch])
            changed = written.changed
            self._batch_limit = min(self._batch_limit * 2, self._options.max_batch)
            for waiting, outcome in zip(batch, written.outcomes, strict=True):
                waiting.resolve(outcome)
        except Exception as error:  # noqa: BLE001 - it fails the batch below; the writer lives on
            failure = error
            if isinstance(error, StoreUnavailable):
                self._batch_limit = min(_FIRST_BATCH_AFTER_FAILURE, self._options.max_batch)
        event = BatchEnded(
            size=len(batch),
            changed=changed,
            origins=[each.origin for each in batch if each.origin is not None],
            error=failure,
            waiting=len(self._queue),
            began_s=began_s,
            duration_s=time.monotonic() - began_s,
        )
        # Not called here: what a listener raises is the event loop's to report.
        asyncio.get_running_loop().call_soon(self._on_batch, event)
        if isinstance(failure, PoisonedBatch) and len(batch) > 1:
            for waiting in batch:
                if waiting.may_start():
                    await self._write([waiting])
        elif failure is not None:
            for waiting in batch:
                waiting.fail(*_told(failure))


def _told(failure: Exception) -> tuple[Exception, BaseException | None]:
    """What one caller is told of a failure, and the cause.

    Each gets an error of its own: one that is raised in many tasks would mix their traces.
    """
    if isinstance(failure, StoreUnavailable):
        return StoreUnavailable(*failure.args), failure.__cause__
    if isinstance(failure, PoisonedBatch) and failure.invalid_value:
        return InvalidValue("a value cannot be written"), failure.__cause__
    if isinstance(failure, PoisonedBatch):
        return CommandFailed("the data cannot be written"), failure.__cause__
    return CommandFailed("the write failed in an unforeseen way"), failure
