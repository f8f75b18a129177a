"""Races a slow attempt with another one, as gRFC A6 defines hedging, within the budget.

Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md#hedging-policy
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import HedgeStarted, Listener
from orderflow_client.resilience.latency import LatencyTracker
from orderflow_client.resilience.policy import Operation, Rejected, T
from orderflow_client.resilience.retry import Classify, RetryBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgePolicy:
    """How many attempts may race, and how far apart they start.

    Attributes:
        max_attempts: Attempts in all, the first included; at least 2.
        delay_s: How long an attempt is waited for before the next is started. None: the 95th
            percentile of recent latencies; until enough of them are known, none is started
            for being slow.

    Raises:
        ValueError: When a part is out of its range.
    """

    max_attempts: int
    delay_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 2:
            raise ValueError(f"max_attempts must be at least 2, not {self.max_attempts}")
        if self.delay_s is not None and not 0 <= self.delay_s < math.inf:
            raise ValueError(f"delay must not be negative, not {self.delay_s} s")


class Hedge:
    """A hedging policy at work for one kind of call.

    The first success wins; the others are cancelled, and awaited. A failure worth repeating
    starts the next attempt at once, a fatal one ends the call. A pushback decides when the next
    starts; a negative one, or a refusal (`Rejected`), that none does: those under way go on.

    Tokens: as in A6, nothing is hedged while the budget allows no retry, failures take a token
    and the success gives a part of one back. Stricter than A6, an attempt that is started because
    another is slow takes one too: else a target that is slow, but does not fail, would get
    all its load twice.

    Args:
        policy: How many and how far apart.
        name: What is hedged, for the listeners.
        latencies: Told of each success, and asked for the delay when the policy has none.
        classify: Tells what a failure means.
        budget: Shared with whatever loads the same target. None: no budget.
        retries_within: The operation has a `Retry` of its own with the same budget. Then a
            failure was retried as far as is of use and starts no attempt here, and its tokens
            are taken: retries do not multiply.
        listeners: Told of each attempt but the first, before it starts.
        clock: What latencies and delays are measured with; the event loop's timers wait.
    """

    def __init__(
        self,
        policy: HedgePolicy,
        *,
        name: str,
        latencies: LatencyTracker,
        classify: Classify,
        budget: RetryBudget | None = None,
        retries_within: bool = False,
        listeners: Sequence[Listener] = (),
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._policy = policy
        self._name = name
        self._latencies = latencies
        self._classify = classify
        self._budget = budget
        self._retries_within = retries_within
        self._listeners = tuple(listeners)
        self._clock = clock

    async def run(self, operation: Operation[T]) -> T:
        """The result of the first attempt that succeeds.

        Each attempt is a task with a copy of the caller's context.

        Raises:
            Exception: A fatal error, or else the last one, as it was raised.
        """
        race = _Race(operation, self._policy.max_attempts)
        self._start(race)
        try:
            while race.running or race.due_s is not None:
                ended = await race.wait(self._clock)
                if not ended:
                    self._start_another(race)
                winner = _first_success(ended)
                if winner is not None:
                    self._won(race)
                    return winner.result()
                for attempt in ended:
                    self._lost(race, attempt)
            assert race.last_error is not None  # noqa: S101  # for mypy: each of them failed
            raise race.last_error
        finally:
            await _cancel_and_wait(race.running)

    def _start(self, race: _Race[T]) -> None:
        now_s = self._clock()
        race.start(now_s)
        delay_s = self._policy.delay_s
        if delay_s is None:
            delay_s = self._latencies.p95_s()
        race.due_s = None if delay_s is None or race.left == 0 else now_s + delay_s

    def _start_another(self, race: _Race[T]) -> None:
        cause, race.cause = race.cause, None
        race.due_s = None
        call_deadline = deadline.current()
        if call_deadline is not None and call_deadline.expired:
            return
        if self._budget is not None:
            if not self._budget.allows_retry:
                return
            if cause is None:
                self._budget.on_failure()
        event = HedgeStarted(name=self._name, attempt=race.started + 1, cause=cause)
        for listener in self._listeners:
            listener(event)
        self._start(race)

    def _won(self, race: _Race[T]) -> None:
        # Those that were beaten count too, as far as they got: were they left out, the
        # percentile would sink with each hedge, and each would bring more of them.
        now_s = self._clock()
        for started_s in race.running.values():
            self._latencies.observe(now_s - started_s)
        if self._budget is not None and not self._retries_within:
            self._budget.on_success()

    def _lost(self, race: _Race[T], attempt: asyncio.Task[T]) -> None:
        del race.running[attempt]
        error = attempt.exception()
        if not isinstance(error, Exception):
            attempt.result()  # Raises what no policy has a say in.
            return
        if isinstance(error, Rejected):
            race.last_error = race.last_error or error  # What was sent and failed says more.
            race.stop()
            return
        race.last_error = error
        verdict = self._classify(error)
        if not verdict.retryable:
            raise error
        pushback_s = verdict.pushback_s
        if self._budget is not None and not self._retries_within:
            self._budget.on_failure()
        if pushback_s is not None and not _in_time(pushback_s):
            race.stop()
        elif not self._retries_within:
            race.fall_due(self._clock() + (pushback_s or 0.0), cause=error)
        elif not race.running:
            race.stop()
        elif pushback_s is not None and race.due_s is not None:
            race.fall_due(self._clock() + pushback_s, cause=None)


class _Race(Generic[T]):
    """The attempts of one call."""

    __slots__ = ("_operation", "cause", "due_s", "last_error", "left", "running", "started")

    def __init__(self, operation: Operation[T], max_attempts: int) -> None:
        self._operation = operation
        self.running: dict[asyncio.Task[T], float] = {}
        """When each attempt under way was started, in that order."""
        self.started = 0
        self.left = max_attempts
        self.due_s: float | None = None
        """When the next attempt starts."""
        self.cause: Exception | None = None
        """The failure that it starts for. None: those before are slow."""
        self.last_error: Exception | None = None

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

    async def wait(self, clock: MonotonicClock) -> list[asyncio.Task[T]]:
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


def _in_time(pushback_s: float) -> bool:
    """An attempt may start after that long: it was not forbidden, and the deadline lasts."""
    if pushback_s < 0:
        return False
    call_deadline = deadline.current()
    return call_deadline is None or pushback_s < call_deadline.remaining_s()


async def _awaited(operation: Operation[T]) -> T:
    # A task is made of a coroutine; an operation may return any awaitable.
    return await operation()


def _first_success(attempts: Sequence[asyncio.Task[T]]) -> asyncio.Task[T] | None:
    for attempt in attempts:
        if not attempt.cancelled() and attempt.exception() is None:
            return attempt
    return None


async def _cancel_and_wait(attempts: Iterable[asyncio.Task[T]]) -> None:
    """Ends the attempts, and returns or raises only when they have ended."""
    pending = set(attempts)
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
