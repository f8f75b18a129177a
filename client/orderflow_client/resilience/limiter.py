"""Admission: how many calls run at once, who waits for a place, and who is refused.

What arrives when all places are taken waits for a short while, in a short queue. The most
critical is admitted first, and among equals the one that came first. When the queue is full, a
more critical arrival takes the place of the least critical waiter, the latest of them; else the
arrival itself is refused. Who is refused is told when to come back: when those that wait now
will have been served, going by how many calls a second were completed lately,

    retry_after_s = (waiting + 1) / completions per second

kept within bounds, and varied by a fifth either way, so that not all come back at once.

The wait is for bursts. Where calls are refused all the time a place that becomes free is taken at
once whether anybody waits for it or not, and waiting would only make refusals slow: so for a
while after each refusal nobody begins to wait, and the last tenth of the places is for critical
calls alone. (To tell a standing queue from a burst is the idea of controlled delay, CoDel:
https://queue.acm.org/detail.cfm?id=2209336.)
"""

from __future__ import annotations

import asyncio
import math
import random as _random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import (
    CallShed,
    Criticality,
    LimitChanged,
    Listener,
    ShedReason,
)
from orderflow_client.resilience.limits import Completion, Limit
from orderflow_client.resilience.policy import Operation, Rejected, T
from orderflow_client.resilience.window import SlidingCount

JITTER = 0.2

_OPEN_TO_ALL = 0.9
"""While calls are refused: the part of the places that is not for critical calls alone."""

_RATE_WINDOW_S = 2.0
_RATE_BUCKETS = 20


class Overloaded(Rejected):
    """There are too many calls; this one was not started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """How a limiter lets calls wait, and what it tells those it refuses.

    Attributes:
        max_waiting: How many may wait at once. 0: none.
        max_wait_s: The longest one waits, in a burst.
        calm_s: For how long after a refusal nobody begins to wait.
        min_retry_after_s: The least that a refused caller is told, before jitter.
        max_retry_after_s: The most, before jitter; also while nothing is completed at all.

    Raises:
        ValueError: When one is out of its range.
    """

    max_waiting: int = 64
    max_wait_s: float = 0.1
    calm_s: float = 1.0
    min_retry_after_s: float = 0.05
    max_retry_after_s: float = 5.0

    def __post_init__(self) -> None:
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, not {self.max_waiting}")
        if not 0 < self.max_wait_s < math.inf:
            raise ValueError(f"max_wait_s must be positive, not {self.max_wait_s}")
        if self.calm_s < 0:
            raise ValueError(f"calm_s must not be negative, not {self.calm_s}")
        if not 0 < self.min_retry_after_s <= self.max_retry_after_s < math.inf:
            raise ValueError(
                "retry delays must be 0 < min_retry_after_s <= max_retry_after_s, not "
                f"{self.min_retry_after_s} s and {self.max_retry_after_s} s"
            )


class LimiterPermit:
    """A place among the calls that run. It must be released; more often changes nothing.

    As a context manager it is released at the end of the block, unless the block did so:
    SERVED when nothing was raised, DROPPED when the deadline of the work under way has passed,
    else IGNORED.
    """

    __slots__ = ("_admitted_s", "_limiter")

    def __init__(self, limiter: Limiter, admitted_s: float) -> None:
        self._limiter: Limiter | None = limiter
        self._admitted_s = admitted_s

    def release(self, completion: Completion = Completion.SERVED, *, waited_s: float = 0.0) -> None:
        """Gives the place back.

        Args:
            completion: How the call ended.
            waited_s: How long it waited for others, which is not the load here.
        """
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._release(self._admitted_s + waited_s, completion)  # noqa: SLF001  # one unit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._limiter is None:
            return
        if error is None:
            self.release(Completion.SERVED)
            return
        call_deadline = deadline.current()
        expired = call_deadline is not None and call_deadline.expired
        self.release(Completion.DROPPED if expired else Completion.IGNORED)


class Limiter:
    """Bounds how many calls run at once. For one event loop.

        with await limiter.acquire(Criticality.CRITICAL):
            ...

    All of it takes constant time, whatever the number of waiters, but for the event loop's heap of
    timers.

    Args:
        limit: How many may run.
        name: What is limited, for errors and listeners.
        queue: How calls wait. None: the defaults.
        listeners: Told of each refusal and of each change of the limit.
        random: Uniform over [0, 1), for the jitter.
        clock: What latencies and rates are measured with; the event loop's timers end waits.
    """

    def __init__(
        self,
        limit: Limit,
        *,
        name: str,
        queue: QueueOptions | None = None,
        listeners: Sequence[Listener] = (),
        random: Callable[[], float] = _random.random,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._limit = limit
        self._name = name
        self._options = queue or QueueOptions()
        self._listeners = tuple(listeners)
        self._random = random
        self._clock = clock
        self._in_flight = 0
        self._waiting = 0
        # The most critical first; within one, in the order of arrival. Not heaps: waiters leave
        # from the middle too.
        self._queues: dict[Criticality, OrderedDict[_Waiter, None]] = {
            criticality: OrderedDict() for criticality in sorted(Criticality, reverse=True)
        }
        self._refused_at_s = -math.inf
        self._completed = SlidingCount(_RATE_WINDOW_S, buckets=_RATE_BUCKETS, clock=clock)

    @property
    def limit(self) -> int:
        return self._limit.current

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def waiting(self) -> int:
        return self._waiting

    async def run(
        self, operation: Operation[T], *, criticality: Criticality = Criticality.DEFAULT
    ) -> T:
        """The result of the operation.

        Raises:
            Overloaded: When it was not started.
            Exception: What the operation raised, as it was raised.
        """
        with await self.acquire(criticality):
            return await operation()

    async def acquire(self, criticality: Criticality = Criticality.DEFAULT) -> LimiterPermit:
        """A place, once there is one.

        Raises:
            Overloaded: When there is none, and none to wait for it; or after a wait.
        """
        permit = self.acquire_at_once(criticality)
        if permit is not None:
            return permit
        if self._refusing():
            raise self._shed(criticality, ShedReason.QUEUE_FULL)
        if self._waiting >= self._options.max_waiting and not self._displace(criticality):
            raise self._shed(criticality, ShedReason.QUEUE_FULL)
        return await self._wait(criticality)

    def acquire_at_once(
        self, criticality: Criticality = Criticality.DEFAULT
    ) -> LimiterPermit | None:
        """A place; None when there is none without waiting."""
        # Where there is one nobody waits: each release has handed on what places there were.
        limit = self._limit.current
        in_flight = self._in_flight
        if in_flight >= limit:
            return None
        if (
            in_flight >= limit * _OPEN_TO_ALL
            and criticality is not Criticality.CRITICAL
            and self._refusing()
        ):
            return None
        # As `_admit` does, which takes a fifth longer by being called.
        self._in_flight = in_flight + 1
        return LimiterPermit(self, self._clock())

    def observe_lag(self, lag_s: float) -> None:
        """The event loop ran something this much later than it should have."""
        self._limit.observe_lag(lag_s)

    def _admit(self) -> LimiterPermit:
        self._in_flight += 1
        return LimiterPermit(self, self._clock())

    async def _wait(self, criticality: Criticality) -> LimiterPermit:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), criticality)
        self._queues[criticality][waiter] = None
        self._waiting += 1
        timer = loop.call_later(
            self._options.max_wait_s, self._dismiss, waiter, ShedReason.WAITED_TOO_LONG
        )
        try:
            answer = await waiter.answer
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise
        finally:
            timer.cancel()
        if isinstance(answer, LimiterPermit):
            return answer
        raise self._shed(criticality, answer)

    def _refusing(self) -> bool:
        return self._clock() - self._refused_at_s < self._options.calm_s

    def _give_up(self, waiter: _Waiter) -> None:
        if waiter.answer.cancelled():
            self._remove(waiter)
            return
        # Answered and cancelled at the same moment: a place that it got is for the next.
        answer = waiter.answer.result()
        if isinstance(answer, LimiterPermit):
            answer.release(Completion.IGNORED)

    def _dismiss(self, waiter: _Waiter, reason: ShedReason) -> None:
        self._remove(waiter)
        if not waiter.answer.done():  # It may have been cancelled, and not have noticed yet.
            waiter.answer.set_result(reason)

    def _remove(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.criticality]
        if waiter in queue:
            del queue[waiter]
            self._waiting -= 1

    def _displace(self, criticality: Criticality) -> bool:
        for lower, queue in reversed(self._queues.items()):
            if lower >= criticality:
                return False
            if queue:
                self._dismiss(next(reversed(queue)), ShedReason.DISPLACED)
                return True
        return False

    def _release(self, admitted_s: float, completion: Completion) -> None:
        limit = self._limit
        old = limit.current
        latency_s = self._clock() - admitted_s
        limit.observe(
            latency_s if latency_s > 0 else 0.0, in_flight=self._in_flight, completion=completion
        )
        self._in_flight -= 1
        self._completed.add()
        if self._waiting:
            self._admit_waiting()
        new = limit.current
        if new != old:
            self._tell(LimitChanged(name=self._name, old=old, new=new))

    def _admit_waiting(self) -> None:
        for queue in self._queues.values():
            while queue and self._in_flight < self._limit.current:
                waiter, _ = queue.popitem(last=False)
                self._waiting -= 1
                if not waiter.answer.done():
                    waiter.answer.set_result(self._admit())

    def _shed(self, criticality: Criticality, reason: ShedReason) -> Overloaded:
        retry_after_s = self._retry_after_s()
        self._refused_at_s = self._clock()
        self._tell(
            CallShed(
                name=self._name,
                criticality=criticality,
                reason=reason,
                retry_after_s=retry_after_s,
            )
        )
        return Overloaded(
            f"{self._name} is overloaded", name=self._name, retry_after_s=retry_after_s
        )

    def _retry_after_s(self) -> float:
        completed, _ = self._completed.counts()
        options = self._options
        drained_s = (self._waiting + 1) * _RATE_WINDOW_S / completed if completed else math.inf
        bounded_s = min(max(drained_s, options.min_retry_after_s), options.max_retry_after_s)
        return bounded_s * (1 - JITTER + 2 * JITTER * self._random())

    def _tell(self, event: CallShed | LimitChanged) -> None:
        for listener in self._listeners:
            listener(event)


class _Waiter:
    """A call that waits, for a place or for word that it gets none."""

    __slots__ = ("answer", "criticality")

    def __init__(
        self, answer: asyncio.Future[LimiterPermit | ShedReason], criticality: Criticality
    ) -> None:
        self.answer = answer
        self.criticality = criticality
