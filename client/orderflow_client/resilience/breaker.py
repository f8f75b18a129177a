"""Stops calling what keeps failing, and finds out with one call at a time when it is back.

aiobreaker holds the state and tells its listeners of every transition. When to make one is
decided here: aiobreaker counts consecutive failures only, lets every caller through when half
open, takes late results for current ones and mixes local time with UTC (aiobreaker 1.2).
"""

from __future__ import annotations

import math
import random as _random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from aiobreaker import (  # type: ignore[import-untyped]  # it ships no py.typed
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitBreakerState,
)

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, Listener
from orderflow_client.resilience.policy import Operation, Rejected, T
from orderflow_client.resilience.subject import current_subject
from orderflow_client.resilience.window import SlidingCount

JITTER = 0.2
"""How far an open period strays from the computed one, either way: many clients that saw the
same outage should not all probe at once."""

PROBE_RETRY_AFTER_S = 1.0
"""What callers are told while a probe is under way: nobody knows how long it takes."""

SHORTEST_TOLD_S = 0.1
"""The least that a probe's answer keeps it open: else who is told 0 s would send all it has."""

_BUCKETS = 10

_PROOF_RATIO = 0.05
"""More than this share of recent attempts answered is proof that the target works."""

_MAX_SUSPECTS = 4096
"""How many failing subjects are remembered; beyond that the oldest are forgotten."""


class Outcome(Enum):
    """What an attempt says about the health of what was called."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNANSWERED = "unanswered"
    """A failure too: no answer in time, from the target or for this one request only."""
    IGNORED = "ignored"
    """Nothing: it was given up, or never got there."""


@dataclass(frozen=True, slots=True)
class Resting:
    """A failure whose end is known: what was called waits as well, as with a breaker of its own.

    A probe that meets it found nothing out. The next is made when that time has passed, and
    the breaker stays open no longer for it than it was told: two breakers in a row would else
    wait for each other.

    Attributes:
        retry_after_s: When the other side says it may be worth asking again.
    """

    retry_after_s: float


Finding = Outcome | Resting
"""What an attempt says about the health of what was called, and until when, if it says so."""

Classify = Callable[[Exception], Finding]


class BreakerOpen(Rejected):
    """The breaker is open, or its one probe is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """When a breaker opens, and for how long.

    Attributes:
        window_s: How far back attempts count.
        minimum_attempts: With fewer than these in the window it stays closed.
        failure_ratio: It opens when this share of them, or more, failed or was slow.
        slow_call_s: A success that took this long counts as a failure. None: none does.
        open_s: How long it first stays open. Doubles each time a probe fails.
        open_max_s: The longest it stays open, without jitter, whatever it is told.
        proof_s: How far back an answer to one caller is proof that the target works, seconds.
            While there is proof, a subject (see `subject.about`) counts as a failure once and
            not again, and attempts without an answer do not open the breaker by themselves: the
            fault is theirs. None: every failed attempt counts.

    Raises:
        ValueError: When one is out of its range.
    """

    window_s: float = 10.0
    minimum_attempts: int = 20
    failure_ratio: float = 0.5
    slow_call_s: float | None = None
    open_s: float = 5.0
    open_max_s: float = 60.0
    proof_s: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.window_s < math.inf:
            raise ValueError(f"window_s must be positive, not {self.window_s}")
        if self.minimum_attempts < 1:
            raise ValueError(f"minimum_attempts must be positive, not {self.minimum_attempts}")
        if not 0 < self.failure_ratio <= 1:
            raise ValueError(f"failure_ratio must be in (0, 1], not {self.failure_ratio}")
        if self.slow_call_s is not None and not self.slow_call_s > 0:
            raise ValueError(f"slow_call_s must be positive, not {self.slow_call_s}")
        if self.proof_s is not None and not 0 < self.proof_s < math.inf:
            raise ValueError(f"proof_s must be positive, not {self.proof_s}")
        if not 0 < self.open_s <= self.open_max_s < math.inf:
            raise ValueError(
                "open periods must be 0 < open_s <= open_max_s, not "
                f"{self.open_s} s and {self.open_max_s} s"
            )


class BreakerPermit:
    """The leave to make one attempt. It must be settled once; more often changes nothing."""

    __slots__ = ("_breaker", "_generation", "_started_s", "_subject")

    def __init__(
        self, breaker: Breaker, generation: int, started_s: float, subject: str | None
    ) -> None:
        self._breaker: Breaker | None = breaker
        self._generation = generation
        self._started_s = started_s
        self._subject = subject

    def succeeded(self) -> None:
        self.settle(Outcome.SUCCESS)

    def failed(self) -> None:
        self.settle(Outcome.FAILURE)

    def ignored(self) -> None:
        self.settle(Outcome.IGNORED)

    def settle(self, finding: Finding) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker._settle(  # noqa: SLF001  # one unit
                self._generation, self._started_s, finding, self._subject
            )


class Breaker:
    """A breaker around one target. Not for use by several threads.

    Args:
        name: What it guards, for errors and listeners.
        options: When it opens, and for how long.
        classify: Tells what a failure says about the target. A cancellation is not asked
            about: it says nothing.
        listeners: Told of each transition.
        circuit_listeners: aiobreaker's own kind, told of each transition too. One that raises
            keeps the transition from happening.
        random: Uniform over [0, 1), for the jitter.
        clock: What all times are measured with; monotonic.
    """

    def __init__(
        self,
        name: str,
        options: BreakerOptions | None = None,
        *,
        classify: Classify,
        listeners: Sequence[Listener] = (),
        circuit_listeners: Sequence[CircuitBreakerListener] = (),
        random: Callable[[], float] = _random.random,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._name = name
        self._options = options or BreakerOptions()
        self._classify = classify
        self._listeners = tuple(listeners)
        self._random = random
        self._clock = clock
        self._circuit = CircuitBreaker(name=name, listeners=circuit_listeners)
        self._window = SlidingCount(self._options.window_s, buckets=_BUCKETS, clock=clock)
        self._unanswered = SlidingCount(self._options.window_s, buckets=_BUCKETS, clock=clock)
        # Marked: answered. Without proof_s it is never asked.
        self._answers = SlidingCount(self._options.proof_s or 1.0, buckets=_BUCKETS, clock=clock)
        self._suspects: OrderedDict[str, None] = OrderedDict()
        self._generation = 0
        self._probing = False
        self._next_open_s = self._options.open_s
        self._probe_at_s = 0.0

    @property
    def name(self) -> str:
        return self._name

    @property
    def state(self) -> BreakerState:
        return BreakerState[self._circuit.current_state.name]

    async def run(self, operation: Operation[T]) -> T:
        """The result of the operation, which is one attempt.

        Raises:
            BreakerOpen: At once, when it may not be made.
            Exception: What the operation raised, as it was raised.
        """
        permit = self.acquire()
        try:
            result = await operation()
        except Exception as error:
            permit.settle(self._classify(error))
            raise
        else:
            permit.succeeded()
            return result
        finally:
            permit.ignored()  # Does nothing once it is settled: this is for cancellations.

    def acquire(self) -> BreakerPermit:
        """The leave to make an attempt that is not one function, such as a stream.

        It must be settled in every case: while a probe's is not, all others are refused. So a
        long stream says that it succeeded when its first message is there, not at its end.

        Raises:
            BreakerOpen: When it may not be made.
        """
        now_s = self._clock()
        state = self._circuit.current_state
        if state is not CircuitBreakerState.CLOSED:
            if state is CircuitBreakerState.OPEN:
                if now_s < self._probe_at_s:
                    raise self._rejection(self._probe_at_s - now_s)
                self._change(CircuitBreakerState.HALF_OPEN)
            if self._probing:
                raise self._rejection(PROBE_RETRY_AFTER_S)
            self._probing = True
        subject = None if self._options.proof_s is None else current_subject()
        return BreakerPermit(self, self._generation, now_s, subject)

    def allow_probe(self) -> None:
        """End the open period: the next attempt is the probe. Call it when the target works.

        Changes nothing while the breaker is closed or a probe is under way.
        """
        self._probe_at_s = self._clock()

    def _settle(
        self, generation: int, started_s: float, finding: Finding, subject: str | None
    ) -> None:
        if generation != self._generation:
            return  # Begun in an earlier state: it says nothing about this one.
        probe, self._probing = self._probing, False
        if finding is Outcome.IGNORED:
            return
        failed = finding is not Outcome.SUCCESS or self._slow(started_s)
        suspected = subject is not None and self._suspected(subject, failed=failed)
        if probe:
            if suspected and finding is Outcome.UNANSWERED:
                return  # It failed before: whether the target works, another one finds out.
            told_s = finding.retry_after_s if isinstance(finding, Resting) else None
            new = CircuitBreakerState.OPEN if failed else CircuitBreakerState.CLOSED
            self._change(new, told_s=told_s)
            if not failed:
                self._answers.add(marked=True)
            return
        if failed and suspected and self._proven():
            return
        self._window.add(marked=failed)
        if self._options.proof_s is not None:
            self._answers.add(marked=not failed)
            if finding is Outcome.UNANSWERED:
                self._unanswered.add()
        if self._too_many_failed():
            self._change(CircuitBreakerState.OPEN)

    def _suspected(self, subject: str, *, failed: bool) -> bool:
        """Return whether the subject had failed before, and note how it ended this time."""
        suspected = subject in self._suspects
        if not failed:
            self._suspects.pop(subject, None)
        elif not suspected:
            self._suspects[subject] = None
            if len(self._suspects) > _MAX_SUSPECTS:
                self._suspects.popitem(last=False)
        return suspected

    def _proven(self) -> bool:
        """Return whether the target answers others at this time."""
        attempts, answered = self._answers.counts()
        return answered > attempts * _PROOF_RATIO

    def _slow(self, started_s: float) -> bool:
        limit_s = self._options.slow_call_s
        return limit_s is not None and self._clock() - started_s >= limit_s

    def _too_many_failed(self) -> bool:
        attempts, failures = self._window.counts()
        most = attempts * self._options.failure_ratio
        if attempts < self._options.minimum_attempts or failures < most:
            return False
        if self._options.proof_s is None:
            return True
        unanswered, _ = self._unanswered.counts()
        return failures - unanswered >= most or not self._proven()

    def _change(self, new: CircuitBreakerState, *, told_s: float | None = None) -> None:
        old = self.state
        open_for_s = 0.0
        if new is CircuitBreakerState.OPEN:
            open_for_s = self._open_period_s() if told_s is None else self._bounded_s(told_s)
            self._circuit.open()
            self._probe_at_s = self._clock() + open_for_s
        elif new is CircuitBreakerState.HALF_OPEN:
            self._circuit.half_open()
        else:
            self._circuit.close()
            self._next_open_s = self._options.open_s
        self._generation += 1
        self._window.clear()
        self._unanswered.clear()
        self._answers.clear()
        event = BreakerChanged(name=self._name, old=old, new=self.state, open_for_s=open_for_s)
        for listener in self._listeners:
            listener(event)

    def _open_period_s(self) -> float:
        """Longer each time, until it is closed again."""
        period_s = self._next_open_s
        self._next_open_s = min(period_s * 2, self._options.open_max_s)
        return period_s * (1 - JITTER + 2 * JITTER * self._random())

    def _bounded_s(self, told_s: float) -> float:
        return min(max(told_s, SHORTEST_TOLD_S), self._options.open_max_s)

    def _rejection(self, retry_after_s: float) -> BreakerOpen:
        return BreakerOpen(
            f"the breaker of {self._name} is {self.state}",
            name=self._name,
            retry_after_s=retry_after_s,
        )
