"""Counts of what happened lately."""

from __future__ import annotations

from orderflow_client.resilience.deadline import MonotonicClock


class SlidingCount:
    """How many things happened in the last seconds, and how many of them were marked.

    Kept in buckets, so that each addition takes constant time whatever the rate; what is
    older than the window leaves a bucket at a time.

    Args:
        window_s: How far back it counts.
        buckets: How many parts the window has.
        clock: What the window is measured with.
    """

    def __init__(self, window_s: float, *, buckets: int, clock: MonotonicClock) -> None:
        self._bucket_s = window_s / buckets
        self._clock = clock
        self._all = [0] * buckets
        self._marked = [0] * buckets
        self._total = 0
        self._total_marked = 0
        self._tick = self._now()
        self._ends_s = (self._tick + 1) * self._bucket_s

    def add(self, count: int = 1, *, marked: bool = False) -> None:
        # Not by `_advance`, which most of the many additions need not do.
        if self._clock() >= self._ends_s:
            self._advance()
        place = self._tick % len(self._all)
        self._all[place] += count
        self._total += count
        if marked:
            self._marked[place] += count
            self._total_marked += count

    def counts(self) -> tuple[int, int]:
        """How many there were, and how many of these were marked."""
        self._advance()
        return self._total, self._total_marked

    def clear(self) -> None:
        self._all = [0] * len(self._all)
        self._marked = [0] * len(self._marked)
        self._total = self._total_marked = 0

    def _now(self) -> int:
        return int(self._clock() // self._bucket_s)

    def _advance(self) -> None:
        now = self._now()
        passed = now - self._tick
        if passed <= 0:
            return
        if passed >= len(self._all):
            self.clear()
        else:
            for tick in range(self._tick + 1, now + 1):
                place = tick % len(self._all)
                self._total -= self._all[place]
                self._total_marked -= self._marked[place]
                self._all[place] = self._marked[place] = 0
        self._tick = now
        self._ends_s = (now + 1) * self._bucket_s
