"""How many calls may run at once: a number, or one that follows what is measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from orderflow_client.resilience.deadline import MonotonicClock

_TOLERANCE = 1.5
_SMOOTHING = 0.2
_LOWEST_GRADIENT = 0.5
_DROP_FACTOR = 0.9
_BASELINE_GAIN = 0.1
_PROBE_PART = 0.25  # A half would not empty the queue of a small limit: sqrt(limit) is much of it.
_SHORTEST_S = 1e-9  # A clock may not have moved at all.


class Completion(Enum):
    """How a call ended, for what it says about load."""

    SERVED = "served"
    """It was answered: how long that took counts."""
    DROPPED = "dropped"
    """Its deadline passed, or something below was overloaded."""
    IGNORED = "ignored"
    """It was given up, or failed: its latency says nothing."""


class Limit(Protocol):
    """How many may run at once, as what a `Limiter` asks and tells."""

    @property
    def current(self) -> int: ...

    def observe(self, latency_s: float, *, in_flight: int, completion: Completion) -> None:
        """A call has ended.

        Args:
            latency_s: From its admission to its end.
            in_flight: How many were running just before, itself included.
            completion: How it ended.
        """

    def observe_lag(self, lag_s: float) -> None:
        """The event loop ran something this much later than it should have."""


class FixedLimit:
    """Always the same number.

    Raises:
        ValueError: When it is not positive.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be positive, not {limit}")
        self._limit = limit

    @property
    def current(self) -> int:
        return self._limit

    def observe(self, latency_s: float, *, in_flight: int, completion: Completion) -> None:
        pass

    def observe_lag(self, lag_s: float) -> None:
        pass


# To look a member up in its enumeration takes as long as a call.
_SERVED = Completion.SERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveLimitOptions:
    """The range of an adaptive limit, and how it measures.

    Attributes:
        min_limit: The lowest limit.
        max_limit: The highest limit.
        initial_limit: The limit until the first measurement.
        window_s: How long one measurement takes, at least.
        min_samples: How many latencies one measurement takes, at least.
        lag_s: The event-loop lag above which the limit falls, whatever the latencies are.
        slack_s: By how much more than in proportion a latency may grow: a queue that nobody
            notices. Without it a baseline of a few milliseconds is soon exceeded.
        probe_every_s: How long the limit may be used up before the baseline is measured anew.

    Raises:
        ValueError: When one is out of its range.
    """

    min_limit: int = 4
    max_limit: int = 1000
    initial_limit: int = 20
    window_s: float = 0.25
    min_samples: int = 10
    lag_s: float = 0.05
    slack_s: float = 0.0
    probe_every_s: float = 60.0

    def __post_init__(self) -> None:
        if not 2 <= self.min_limit <= self.initial_limit <= self.max_limit:
            raise ValueError(
                "limits must be 2 <= min_limit <= initial_limit <= max_limit, not "
                f"{self.min_limit}, {self.initial_limit} and {self.max_limit}"
            )
        if self.min_samples < 1:
            raise ValueError(f"min_samples must be positive, not {self.min_samples}")
        if not 0 <= self.slack_s < math.inf:
            raise ValueError(f"slack_s must not be negative, not {self.slack_s}")
        for name in ("window_s", "lag_s", "probe_every_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")


class AdaptiveLimit:
    """As many as run without queueing for each other, as far as latency tells.

    Once per measurement, of at least `window_s` and `min_samples`:

        gradient = min((1.5 * baseline + slack_s) / latency, lag_s / lag), within [0.5, 1]
        target   = gradient * limit + sqrt(limit)
        limit    = 0.8 * limit + 0.2 * target, kept within [min_limit, max_limit]

    So while latency stays within one and a half times the baseline the limit grows by a bit of
    its root, and it falls by at most a tenth at a time when it does not. `latency` is the
    average of the measurement, `lag` the longest one the event loop reported in it. The shape is
    that of Gradient2Limit (https://github.com/Netflix/concurrency-limits), with the square root
    for the queue as in Envoy's adaptive concurrency filter.

    When less than half of the limit is in use nothing can be said about it: it stays, and the
    baseline follows the latencies. When more is in use the baseline only falls: were it to follow
    a long-term average upwards, as in Gradient2Limit, an overload that lasts would become
    the norm, and the limit would drift to its maximum. Instead, after `probe_every_s` of such
    use the limit is quartered for one measurement, and what that shows, up or down, is
    the new baseline (as Envoy measures its minRTT).

    A call that was DROPPED lowers the limit to nine tenths, at most once in `window_s`, whatever
    latencies say. One that was IGNORED changes nothing: errors are often fast, and would pass
    for good latencies.

    Args:
        options: The range, and how it measures.
        clock: What windows are measured with.
    """

    def __init__(
        self,
        options: AdaptiveLimitOptions | None = None,
        *,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._options = options or AdaptiveLimitOptions()
        self._clock = clock
        self._limit = float(self._options.initial_limit)
        self.current = self._options.initial_limit
        """The limit, of which each call asks several times."""
        self._baseline_s: float | None = None
        self._baseline_at_s = clock()
        self._dropped_at_s = -math.inf
        self._resume_at: float | None = None
        """While probing: the limit to go back to."""
        self._draining = False
        """While probing: calls admitted under the higher limit still run."""
        self._began_at_s = clock()
        self._samples = 0
        self._sum_s = 0.0
        self._busiest = 0
        self._lag_s = 0.0

    def observe_lag(self, lag_s: float) -> None:
        self._lag_s = max(self._lag_s, lag_s)

    def observe(self, latency_s: float, *, in_flight: int, completion: Completion) -> None:
        if completion is not _SERVED:
            if completion is Completion.DROPPED:
                self._drop()
            return
        now_s = self._clock()
        if (self._draining or self._resume_at is not None) and not self._counts_while_probing(
            latency_s, in_flight, now_s
        ):
            return
        self._samples += 1
        self._sum_s += latency_s
        if in_flight > self._busiest:
            self._busiest = in_flight
        if (
            self._samples >= self._options.min_samples
            and now_s - self._began_at_s >= self._options.window_s
        ):
            self._measured(self._sum_s / self._samples, now_s)
            self._begin()

    def _drop(self) -> None:
        now_s = self._clock()
        if self._resume_at is not None or now_s - self._dropped_at_s < self._options.window_s:
            return  # While probing it is low already.
        self._dropped_at_s = now_s
        self._set(self._limit * _DROP_FACTOR)

    def _counts_while_probing(self, latency_s: float, in_flight: int, now_s: float) -> bool:
        if self._draining:
            if in_flight > self._limit:
                return False
            self._draining = False
            self._begin()
        # Admitted before the probe: it tells of the queue that was.
        return self._resume_at is None or now_s - latency_s >= self._began_at_s

    def _begin(self) -> None:
        self._began_at_s = self._clock()
        self._samples = 0
        self._sum_s = 0.0
        self._busiest = 0
        self._lag_s = 0.0

    def _measured(self, latency_s: float, now_s: float) -> None:
        if self._resume_at is not None:
            self._learn(latency_s, now_s)
            self._become(self._resume_at)
            self._resume_at = None
            return
        if self._baseline_s is None:
            self._learn(latency_s, now_s)
            return
        gain_s = _BASELINE_GAIN * (latency_s - self._baseline_s)
        lagging = self._lag_s > self._options.lag_s
        if self._busiest < self._limit / 2 and not lagging:
            self._learn(self._baseline_s + gain_s, now_s)
            return
        self._baseline_s += min(gain_s, 0.0)
        if now_s - self._baseline_at_s >= self._options.probe_every_s:
            self._probe()
            return
        tolerated_s = _TOLERANCE * self._baseline_s + self._options.slack_s
        gradient = min(1.0, tolerated_s / max(latency_s, _SHORTEST_S))
        if lagging:
            gradient = min(gradient, self._options.lag_s / self._lag_s)
        target = max(gradient, _LOWEST_GRADIENT) * self._limit + math.sqrt(self._limit)
        self._set((1 - _SMOOTHING) * self._limit + _SMOOTHING * target)

    def _learn(self, baseline_s: float, now_s: float) -> None:
        self._baseline_s = baseline_s
        self._baseline_at_s = now_s

    def _probe(self) -> None:
        self._resume_at = self._limit
        self._become(max(self._limit * _PROBE_PART, 1.0))
        self._draining = True

    def _set(self, limit: float) -> None:
        self._become(min(max(limit, self._options.min_limit), self._options.max_limit))

    def _become(self, limit: float) -> None:
        self._limit = limit
        self.current = int(limit)
