"""Repeats what failed, as gRFC A6 defines it, within the deadline and a budget.

The policy takes a function and returns the function's result. It knows no transport: a
`classify` function tells it what a failure means.

Source: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random as _random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import RetryListener, RetryScheduled
from orderflow_client.resilience.policy import Operation, Rejected, T

JITTER = 0.2
"""How far a delay strays from the computed one, either way (gRFC A6)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, and how far apart, attempts are made.

    Attributes:
        max_attempts: Attempts in all, the first included; at least 2.
        initial_backoff_s: The delay before the first retry, without jitter.
        max_backoff_s: The longest delay, without jitter.
        backoff_multiplier: The growth of the delay from one retry to the next; at least 1.
        attempt_timeout_s: The longest one attempt may take; kept by an `AttemptTimeout` within.
            None: as long as the call has left.

    Raises:
        ValueError: When a part is out of its range.
    """

    max_attempts: int
    initial_backoff_s: float
    max_backoff_s: float
    backoff_multiplier: float
    attempt_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 2:
            raise ValueError(f"max_attempts must be at least 2, not {self.max_attempts}")
        if not 0 < self.initial_backoff_s <= self.max_backoff_s < math.inf:
            raise ValueError(
                "backoffs must be 0 < initial_backoff <= max_backoff, not "
                f"{self.initial_backoff_s} s and {self.max_backoff_s} s"
            )
        if not 1 <= self.backoff_multiplier < math.inf:
            raise ValueError(
                f"backoff_multiplier must be at least 1, not {self.backoff_multiplier}"
            )
        if self.attempt_timeout_s is not None and not 0 < self.attempt_timeout_s < math.inf:
            raise ValueError(f"attempt_timeout must be positive, not {self.attempt_timeout_s} s")

    def backoffs_s(self, random: Callable[[], float]) -> Iterator[float]:
        """The delays before the first retry, the second and so on, without end.

        Args:
            random: Uniform over [0, 1), such as `random.random`.
        """
        backoff_s = self.initial_backoff_s
        while True:
            yield backoff_s * (1 - JITTER + 2 * JITTER * random())
            backoff_s = min(backoff_s * self.backoff_multiplier, self.max_backoff_s)


class RetryBudget:
    """Keeps retries from feeding an outage: the token bucket of gRFC A6, one per channel.

    Starts full with 10 tokens. A failed attempt takes one, a success gives back a tenth; at
    or below half nothing is retried. So in a full outage load grows by about a tenth.
    """

    _CAPACITY_MILLITOKENS = 10_000
    _FAILURE_MILLITOKENS = 1_000
    _SUCCESS_MILLITOKENS = 100

    def __init__(self) -> None:
        # In thousandths, as in the gRPC core: tenths do not add up exactly in floats.
        self._millitokens = self._CAPACITY_MILLITOKENS

    @property
    def tokens(self) -> float:
        return self._millitokens / 1000

    @property
    def allows_retry(self) -> bool:
        return self._millitokens > self._CAPACITY_MILLITOKENS // 2

    def on_failure(self) -> None:
        self._millitokens = max(self._millitokens - self._FAILURE_MILLITOKENS, 0)

    def on_success(self) -> None:
        self._millitokens = min(
            self._millitokens + self._SUCCESS_MILLITOKENS, self._CAPACITY_MILLITOKENS
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the failure of one attempt means.

    Attributes:
        retryable: Another attempt may do better.
        pushback_s: The other side's word on when to try again; replaces the backoff exactly.
            Negative: it asks not to. None: it said nothing.
    """

    retryable: bool
    pushback_s: float | None = None


Classify = Callable[[Exception], Verdict]


class Retry:
    """A retry policy at work for one kind of call. Keeps nothing of a call but the budget.

    Args:
        policy: How often and how far apart.
        name: What is retried, for the listeners.
        classify: Tells what a failure means.
        budget: Shared with whatever loads the same target. None: no budget.
        listeners: Told of each retry before its delay begins.
        sleep: Waits the given seconds.
        random: Uniform over [0, 1), for the jitter.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        name: str,
        classify: Classify,
        budget: RetryBudget | None = None,
        listeners: Sequence[RetryListener] = (),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._policy = policy
        self._name = name
        self._classify = classify
        self._budget = budget
        self._listeners = tuple(listeners)
        self._sleep = sleep
        self._random = random

    async def run(self, operation: Operation[T]) -> T:
        """Runs the operation until it succeeds or repeating it is of no use.

        The deadline is that of the work under way, `deadline.current()`. A retry whose delay
        would reach it is not started. A refusal (`Rejected`) is never repeated.

        Raises:
            Rejected: When the first attempt was refused: nothing was done.
            Exception: The error of the last attempt that was made, as it was raised.
        """
        call_deadline = deadline.current()
        backoffs_s: Iterator[float] | None = None
        failure: Exception | None = None
        for attempt in itertools.count(1):
            try:
                result = await operation()
            except Rejected:
                if failure is None:
                    raise
                # To say that nothing was done would be wrong: attempts were made before.
                raise failure from None
            except Exception as error:
                failure = error
                verdict = self._classify(error)
                if verdict.pushback_s is None:
                    backoffs_s = backoffs_s or self._policy.backoffs_s(self._random)
                    delay_s = next(backoffs_s)
                else:
                    delay_s = verdict.pushback_s
                    # After a pushback the backoff starts over, as in the gRPC core.
                    backoffs_s = None
                if not self._may_retry(verdict, attempt, delay_s, call_deadline):
                    raise
                self._tell(
                    RetryScheduled(name=self._name, attempt=attempt, delay_s=delay_s, cause=error)
                )
            else:
                if self._budget is not None:
                    self._budget.on_success()
                return result
            await self._sleep(delay_s)
        raise AssertionError("unreachable: the count has no end")

    def _may_retry(
        self, verdict: Verdict, attempt: int, delay_s: float, call_deadline: Deadline | None
    ) -> bool:
        if not verdict.retryable:
            return False  # An answer, such as "not found", is no sign of trouble.
        if self._budget is not None:
            self._budget.on_failure()
            if not self._budget.allows_retry:
                return False
        if attempt >= self._policy.max_attempts or delay_s < 0:
            return False
        return call_deadline is None or delay_s < call_deadline.remaining_s()

    def _tell(self, event: RetryScheduled) -> None:
        for listener in self._listeners:
            listener(event)
