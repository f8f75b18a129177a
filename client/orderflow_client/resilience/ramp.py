"""The rate at which a backlog is worked off after its target was away."""

from __future__ import annotations

import math
import time

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent
from orderflow_client.resilience.window import SlidingCount

_USUAL_WINDOW_S = 10.0
_GROWTH_PER_S = 1.5
_BURST_S = 0.1
_LEAST_REST_S = 0.001


class RecoveryRamp:
    """Bounds how many items of a backlog are started a second once an outage has ended.

    At first as many as were answered a second before the outage; then 1.5 times as many each
    second while the target answers, half as many after a second in which it answered fewer than it
    left unanswered; never more than `max_per_s`. The ramp ends with the backlog.

    A listener for a breaker, whose open time is an outage; or call `interrupted` and `resumed`.

    Args:
        max_per_s: The most items a second.
        least_per_s: The first rate where fewer items a second were answered before.
        clock: Measures seconds.
    """

    def __init__(
        self,
        *,
        max_per_s: float = math.inf,
        least_per_s: float = 10.0,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._least_per_s = least_per_s
        self._max_per_s = max_per_s
        self._clock = clock
        self._recent = SlidingCount(_USUAL_WINDOW_S, buckets=10, clock=clock)
        self._usual_per_s = least_per_s
        self._rate_per_s: float | None = None
        self._tokens = 0.0
        self._filled_at_s = self._judged_at_s = clock()
        self._answered = self._unanswered = 0

    def __call__(self, event: PolicyEvent) -> None:
        if not isinstance(event, BreakerChanged):
            return
        if event.new is BreakerState.OPEN and event.old is BreakerState.CLOSED:
            self.interrupted()
        elif event.new is BreakerState.CLOSED:
            self.resumed()

    def interrupted(self) -> None:
        """Note that the target is away, and the rate of before."""
        if self._rate_per_s is None:
            answered, _ = self._recent.counts()
            self._usual_per_s = max(answered / _USUAL_WINDOW_S, self._least_per_s)

    def resumed(self) -> None:
        """Begin the ramp: the target is back."""
        self._rate_per_s = min(self._usual_per_s, self._max_per_s)
        self._tokens = 1.0
        self._filled_at_s = self._judged_at_s = self._clock()
        self._answered = self._unanswered = 0

    def ends(self) -> None:
        """End the ramp: nothing more waits."""
        self._rate_per_s = None

    def answered(self, count: int = 1) -> None:
        """Record items that the target answered, those outside the backlog included."""
        self._recent.add(count)
        self._answered += count

    def unanswered(self) -> None:
        """Record an item that it did not answer."""
        self._unanswered += 1

    def take(self, wanted: int) -> int:
        """Return how many of the wanted items may be started now."""
        if self._rate_per_s is None:
            return wanted
        now_s = self._clock()
        if now_s - self._judged_at_s >= 1.0:
            self._judge(self._rate_per_s, now_s)
        self._tokens += self._rate_per_s * (now_s - self._filled_at_s)
        self._tokens = min(self._tokens, self._burst(self._rate_per_s))
        self._filled_at_s = now_s
        return min(wanted, int(self._tokens))

    def started(self, count: int) -> None:
        """Record how many of those that might be started were."""
        self._tokens -= count

    @property
    def rest_s(self) -> float:
        """Seconds until as many items may be started as are worth a batch; 0 without a ramp."""
        if self._rate_per_s is None:
            return 0.0
        # Not less than a moment: rounding may leave it at nothing just below a whole item.
        missing = self._burst(self._rate_per_s) - self._tokens
        return max(_LEAST_REST_S, missing / self._rate_per_s)

    def _burst(self, rate_per_s: float) -> float:
        return max(1.0, rate_per_s * _BURST_S)

    def _judge(self, rate_per_s: float, now_s: float) -> None:
        good = self._answered >= self._unanswered
        rate_per_s = rate_per_s * _GROWTH_PER_S if good else rate_per_s / 2
        self._rate_per_s = min(max(rate_per_s, 1.0), self._max_per_s)
        self._judged_at_s = now_s
        self._answered = self._unanswered = 0
