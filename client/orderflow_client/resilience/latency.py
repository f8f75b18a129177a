"""How long what succeeds takes, lately."""

from __future__ import annotations

import math
import time

from orderflow_client.resilience.deadline import MonotonicClock

_QUANTILE = 0.95
_CAPACITY = 256
_MINIMUM = 20  # Below this the 95th percentile is the largest value, or nearly so.
_RECOMPUTE_EVERY = 16


class LatencyTracker:
    """The 95th percentile of the last latencies, cheap enough to be kept on every call.

    The last 256 are kept in a ring and sorted anew every 16, so between two times it is up to
    15 latencies old.

    Args:
        window_s: What is older than this is forgotten.
        clock: What the window is measured with.
    """

    def __init__(self, *, window_s: float = 60.0, clock: MonotonicClock = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._latencies_s = [0.0] * _CAPACITY
        self._seen_at_s = [-math.inf] * _CAPACITY
        self._count = 0
        self._p95_s: float | None = None
        self._fresh_until_s = -math.inf

    def observe(self, latency_s: float) -> None:
        now_s = self._clock()
        place = self._count % _CAPACITY
        self._latencies_s[place] = latency_s
        self._seen_at_s[place] = now_s
        self._count += 1
        if self._count % _RECOMPUTE_EVERY == 0 or self._count == _MINIMUM:
            self._p95_s = self._compute(now_s)
            self._fresh_until_s = now_s + self._window_s

    def p95_s(self) -> float | None:
        """The 95th percentile (nearest rank); None while fewer than 20 latencies are known."""
        return self._p95_s if self._clock() < self._fresh_until_s else None

    def _compute(self, now_s: float) -> float | None:
        oldest_s = now_s - self._window_s
        known = self._latencies_s
        if self._seen_at_s[self._count % _CAPACITY] <= oldest_s:  # of the place that is next
            known = [
                latency_s
                for latency_s, seen_at_s in zip(known, self._seen_at_s, strict=True)
                if seen_at_s > oldest_s
            ]
        if len(known) < _MINIMUM:
            return None
        return sorted(known)[math.ceil(_QUANTILE * len(known)) - 1]
