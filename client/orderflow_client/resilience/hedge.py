"""Races a slow attempt with another one, as gRFC A6 defines hedging, within the budget.

Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md#hedging-policy
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import HedgeStarted, Listener
from orderflow_client.resilience.latency import LatencyTracker
from orderflow_client.resilience.policy import Operation, Rejected, T
from orderflow_client.resilience.race import Race, cancel_and_wait, first_success
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

        The first attempt runs in the caller's task and context, as it would without a hedge: most
        calls have their answer before another is due, and all that they pay is a timer. Each
        other attempt is a task with a copy of the caller's context: as it was when the call began,
        or, when the first attempt failed before another was due, as it is then.

        Raises:
            Exception: A fatal error, or else the last one, as it was raised.
        """
        race = Race(operation, self._policy.max_attempts, now_s=self._clock())
        timer = self._watch(race)
        try:
            result = await operation()
        except BaseException as error:  # noqa: BLE001  # raised below, as no other error's context
            failure = error
        else:
            if race.overseen is not None:
                return await race.overseen.succeeded(result)
            self._latencies.observe(self._clock() - race.began_s)
            self._succeeded()
            return result
        finally:
            if timer is not None:
                timer.cancel()
        try:
            if race.overseen is not None:
                return await race.overseen.failed(failure)
            self._lost(race, failure)
            return await self._settle(race)
        finally:
            # The error keeps the frames that it passed, and this one would keep the error.
            del failure

    def _watch(self, race: Race[T]) -> asyncio.TimerHandle | None:
        """Has the race begin when the first attempt is slow."""
        delay_s = self._delay_s()
        if delay_s is None:
            return None
        race.due_s = race.began_s + delay_s
        return asyncio.get_running_loop().call_later(delay_s, self._begin, race)

    def _begin(self, race: Race[Any]) -> None:
        if not race.given_up:
            race.oversee(self._settle(race))

    def _delay_s(self) -> float | None:
        delay_s = self._policy.delay_s
        return self._latencies.p95_s() if delay_s is None else delay_s

    async def _settle(self, race: Race[T]) -> T:
        """The race from when the first attempt is not the only one, or has failed."""
        try:
            while race.running or race.due_s is not None:
                ended = await race.wait(self._clock)
                if not ended:
                    self._start_another(race)
                winner = first_success(ended)
                if winner is not None:
                    self._won(race)
                    return winner.result()
                for attempt in ended:
                    del race.running[attempt]
                    error = attempt.exception()
                    assert error is not None  # noqa: S101  # for mypy: it would have won
                    self._lost(race, error)
            assert race.last_error is not None  # noqa: S101  # for mypy: each of them failed
            raise race.last_error
        finally:
            await cancel_and_wait(race.running)

    def _start_another(self, race: Race[T]) -> None:
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
        now_s = self._clock()
        race.start(now_s)
        if race.left > 0 and (delay_s := self._delay_s()) is not None:
            race.due_s = now_s + delay_s

    def _won(self, race: Race[T]) -> None:
        # Those that were beaten count too, as far as they got: were they left out, the
        # percentile would sink with each hedge, and each would bring more of them.
        now_s = self._clock()
        for started_s in race.running.values():
            self._latencies.observe(now_s - started_s)
        self._succeeded()

    def _succeeded(self) -> None:
        if self._budget is not None and not self._retries_within:
            self._budget.on_success()

    def _lost(self, race: Race[T], error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error  # No policy has a say in it.
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


def _in_time(pushback_s: float) -> bool:
    """An attempt may start after that long: it was not forbidden, and the deadline lasts."""
    if pushback_s < 0:
        return False
    call_deadline = deadline.current()
    return call_deadline is None or pushback_s < call_deadline.remaining_s()
