"""The attempts of one call, while more than one of them may be under way.

What runs when, and how it is ended; what the attempts' results mean is for the hedge to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Generic

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.policy import Operation, T


class Race(Generic[T]):
    """The attempts of one call; to be made in the task that makes the first."""

    __slots__ = (
        "_cancellations",
        "_operation",
        "began_s",
        "caller",
        "cause",
        "due_s",
        "last_error",
        "left",
        "overseen",
        "running",
        "started",
    )

    def __init__(self, operation: Operation[T], max_attempts: int, *, now_s: float) -> None:
        self._operation = operation
        self.began_s = now_s
        self.caller = asyncio.current_task()
        self._cancellations = 0 if self.caller is None else self.caller.cancelling()
        self.overseen: FirstAttempt[T] | None = None
        """The first attempt, from when it is not alone any more."""
        self.running: dict[asyncio.Future[T], float] = {}
        """When each attempt under way was started, in that order; the first once it is overseen."""
        self.started = 1
        self.left = max_attempts - 1
        self.due_s: float | None = None
        """When the next attempt starts."""
        self.cause: Exception | None = None
        """The failure that it starts for. None: those before are slow."""
        self.last_error: Exception | None = None

    @property
    def given_up(self) -> bool:
        """The caller was cancelled since: its first attempt cleans up, and no other is wanted."""
        return self.caller is not None and self.caller.cancelling() > self._cancellations

    def oversee(self, overseer: Coroutine[Any, Any, T]) -> None:
        """Has a task run the race, while the caller's is busy with the first attempt."""
        assert self.caller is not None  # noqa: S101  # for mypy: an operation is awaited in a task
        self.overseen = FirstAttempt(self.caller, self._cancellations)
        self.running[self.overseen] = self.began_s
        self.overseen.be_overseen_by(asyncio.create_task(overseer))

    def start(self, now_s: float) -> None:
        self.running[asyncio.create_task(_awaited(self._operation))] = now_s
        self.started += 1
        self.left -= 1

    def fall_due(self, due_s: float, *, cause: Exception | None) -> None:
        if self.left > 0:
            self.due_s = due_s
            self.cause = cause

    def stop(self) -> None:
        """Starts no other attempt."""
        self.left = 0
        self.due_s = None

    async def wait(self, clock: MonotonicClock) -> list[asyncio.Future[T]]:
        """The attempts that ended; none when the next one is due first."""
        timeout_s = None if self.due_s is None else max(self.due_s - clock(), 0.0)
        if self.running:
            ended, _ = await asyncio.wait(
                self.running, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            return [attempt for attempt in self.running if attempt in ended]
        if timeout_s is not None:
            await asyncio.sleep(timeout_s)
        return []


class FirstAttempt(asyncio.Future[T]):
    """The attempt in the caller's task, made into what the others are: it can be cancelled.

    How it ended is for the caller to tell, who waits for the overseer's word then. A cancellation
    is thrown into the attempt and taken back when the attempt has ended, as `asyncio.timeout` does
    it. Whoever else has cancelled the caller is not forgotten over that.

    Args:
        caller: Makes the attempt.
        cancellations: How often it had been cancelled when the call began.
    """

    _overseer: asyncio.Task[T]

    def __init__(self, caller: asyncio.Task[Any], cancellations: int) -> None:
        super().__init__(loop=caller.get_loop())
        self._caller = caller
        self._cancellations = cancellations
        self._interrupted = False

    def be_overseen_by(self, overseer: asyncio.Task[T]) -> None:
        """Who runs the race. It ends only when this attempt has ended."""
        self._overseer = overseer

    def cancel(self, msg: Any | None = None) -> bool:
        """Asks the attempt to end, as with a task."""
        if self.done() or self._interrupted:
            return False
        self._interrupted = True
        return self._caller.cancel(msg)

    async def succeeded(self, result: T) -> T:
        """What the race comes to, given the attempt's result."""
        self._take_back_cancellation()
        self.set_result(result)
        return await self._overseer

    async def failed(self, failure: BaseException) -> T:
        """What the race comes to, given how the attempt failed.

        Raises:
            BaseException: The failure itself, when it is not of the attempt but ends the call.
        """
        lost = self._take_back_cancellation() and isinstance(failure, asyncio.CancelledError)
        if isinstance(failure, Exception):
            self.set_exception(failure)
        else:
            super().cancel()
            if not lost:
                await cancel_and_wait([self._overseer])
                raise failure
        return await self._overseer

    def _take_back_cancellation(self) -> bool:
        """Whether the attempt's cancellation was the only one."""
        return self._interrupted and self._caller.uncancel() <= self._cancellations


async def _awaited(operation: Operation[T]) -> T:
    # A task is made of a coroutine; an operation may return any awaitable.
    return await operation()


def first_success(attempts: Iterable[asyncio.Future[T]]) -> asyncio.Future[T] | None:
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            return attempt
    return None


async def cancel_and_wait(attempts: Iterable[asyncio.Future[T]]) -> None:
    """Ends the attempts, and returns or raises only when they have ended."""
    pending = {attempt for attempt in attempts if not attempt.done()}
    for attempt in pending:
        attempt.cancel()
    cancelled: asyncio.CancelledError | None = None
    while pending:
        try:
            _, pending = await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            # What they must clean up is not to be left behind; then this ends as well.
            cancelled = error
    for attempt in attempts:
        if not attempt.cancelled():
            attempt.exception()  # Seen: else asyncio complains that nobody looked.
    if cancelled is not None:
        raise cancelled
