"""How often each caller may call: a token bucket for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from orderflow_client.resilience.policy import Rejected

_MAX_REMEMBERED = 10_000
_ROUNDING_S = 1e-6
"""A sum of intervals is not exact, and a clock that runs for years leaves few digits for it."""


class RateLimited(Rejected):
    """A caller calls more often than it may."""

    def __init__(self, *, retry_after_s: float) -> None:
        super().__init__(
            "more calls than this caller may make", name="rate limit", retry_after_s=retry_after_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """One caller's share.

    Attributes:
        per_s: Calls a second, in the long run.
        burst: Calls at once after a rest.
    """

    per_s: float
    burst: int

    def __post_init__(self) -> None:
        if self.per_s <= 0 or self.burst < 1:
            raise ValueError(f"per_s must be positive and burst at least 1: {self}")


class RateLimiter:
    """Keeps each caller to the limit.

    A bucket is one number, the time at which it will be full again (the generic cell rate
    algorithm, ITU-T I.371): it fills by itself, and a refusal costs it nothing.

    Args:
        limit: The same for every caller.
        clock: Seconds, of no particular beginning.
        max_remembered: How many callers are, at most. Forgotten is who has not called for longest;
            its bucket is full again, as it is anyway after a rest.
    """

    def __init__(
        self,
        limit: RateLimit,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_remembered: int = _MAX_REMEMBERED,
    ) -> None:
        self._interval_s = 1.0 / limit.per_s
        self._tolerance_s = (limit.burst - 1) * self._interval_s
        self._clock = clock
        self._max_remembered = max_remembered
        self._full_at_s: dict[str, float] = {}

    def take(self, caller: str) -> None:
        """Takes one call out of the caller's bucket.

        Raises:
            RateLimited: There is none in it.
        """
        now_s = self._clock()
        # Taken out and put in again: the first in the dictionary is who has rested longest.
        full_at_s = max(self._full_at_s.pop(caller, now_s), now_s)
        wait_s = full_at_s - now_s - self._tolerance_s
        if wait_s > _ROUNDING_S:
            self._full_at_s[caller] = full_at_s
            raise RateLimited(retry_after_s=wait_s)
        if len(self._full_at_s) >= self._max_remembered:
            del self._full_at_s[next(iter(self._full_at_s))]
        self._full_at_s[caller] = full_at_s + self._interval_s
