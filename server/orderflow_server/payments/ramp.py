"""The rate at which the worker works off its backlog after the gateway was away."""

from __future__ import annotations

import time

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent
from orderflow_client.resilience.window import SlidingCount

_USUAL_WINDOW_S = 10.0
_LEAST_PER_S = 10.0
_GROWTH_PER_S = 1.5


class RecoveryRamp:
    """Bounds how many orders the worker starts a second once the gateway's breaker has closed.

    At first as many as were settled a second before the breaker opened, each of which takes two
    calls; then 1.5 times as many each second while the gateway answers, half as many after a
    second in which it answered fewer than it left unanswered; never more than `max_per_s`. The
    ramp ends with the backlog.

    A listener for the policies of the gateway's channel.

    Args:
        max_per_s: The most orders a second.
        clock: Measures seconds.
    """

    def __init__(self, *, max_per_s: float, clock: MonotonicClock = time.monotonic) -> None:
        self._max_per_s = max_per_s
        self._clock = clock
        self._settled = SlidingCount(_USUAL_WINDOW_S, buckets=10, clock=clock)
        self._usual_per_s = _LEAST_PER_S
        self._rate_per_s: float | None = None
        self._tokens = 0.0
        self._filled_at_s = self._judged_at_s = clock()
        self._answered = self._unanswered = 0

    def __call__(self, event: PolicyEvent) -> None:
        if not isinstance(event, BreakerChanged):
            return
        if event.new is BreakerState.OPEN and event.old is BreakerState.CLOSED:
            if self._rate_per_s is None:
                settled, _ = self._settled.counts()
                self._usual_per_s = max(settled / _USUAL_WINDOW_S, _LEAST_PER_S)
        elif event.new is BreakerState.CLOSED:
            self._rate_per_s = min(self._usual_per_s, self._max_per_s)
            self._tokens = 1.0
            self._filled_at_s = self._judged_at_s = self._clock()
            self._answered = self._unanswered = 0

    def answered(self) -> None:
        """Record an order that the gateway answered, whoever asked."""
        self._settled.add()
        self._answered += 1

    def unanswered(self) -> None:
        """Record an order that it did not answer."""
        self._unanswered += 1

    def ends(self) -> None:
        """End the ramp: nothing more is due."""
        self._rate_per_s = None

    def take(self, wanted: int) -> int:
        """Return how many of the wanted orders may be started now."""
        if self._rate_per_s is None:
            return wanted
        now_s = self._clock()
        if now_s - self._judged_at_s >= 1.0:
            self._judge(now_s)
        # Of what was not used at most a tenth of a second is kept: the rate is one for all of it.
        most = max(1.0, self._rate_per_s / 10)
        self._tokens = min(self._tokens + self._rate_per_s * (now_s - self._filled_at_s), most)
        self._filled_at_s = now_s
        return min(wanted, int(self._tokens))

    def started(self, count: int) -> None:
        """Record how many of those that might be started were."""
        self._tokens -= count

    @property
    def rest_s(self) -> float:
        """Seconds until another order may be started; 0 without a ramp."""
        if self._rate_per_s is None:
            return 0.0
        return max(0.0, (1.0 - self._tokens) / self._rate_per_s)

    def _judge(self, now_s: float) -> None:
        rate_per_s = self._rate_per_s or self._usual_per_s
        good = self._answered >= self._unanswered
        rate_per_s = rate_per_s * _GROWTH_PER_S if good else rate_per_s / 2
        self._rate_per_s = min(max(rate_per_s, 1.0), self._max_per_s)
        self._judged_at_s = now_s
        self._answered = self._unanswered = 0
