"""Expectations on the load after an outage: it grows, and does not jump."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orderflow_server.chaos.expectations import Verdict
from orderflow_server.chaos.recording import Recording

CounterName = Literal["attempts", "published"]

_WORDS = {"attempts": "attempts at the gateway", "published": "events published"}
_SPAN_S = 1.0
_STEP_S = 0.25
_WATCHED_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """After the fault the rate begins low and stays below a bound.

    Rates are counted over a second, and compared with the rate before the fault. The beginning is
    when the rate is at least half of that again.

    Attributes:
        counter: Name of the counter that is compared.
        first_s: How long the beginning is.
        first_times: The most in the beginning, in times of the rate before the fault.
        most_times: The most after that, for 10 s.
    """

    counter: CounterName
    first_s: float
    first_times: float
    most_times: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        count = _Count(recording, self.counter)
        usual = count.rate(0, begin_s)
        begun_s = self._begun_s(recording, count, usual)
        first = count.fastest(begun_s, begun_s + self.first_s)
        later = count.fastest(begun_s + self.first_s, begun_s + _WATCHED_S)
        word = _WORDS[self.counter]
        return [
            Verdict(
                what=what,
                wanted=f"<= {times:g} times the usual {usual:.0f}/s",
                seen=f"{seen:.0f}/s from {begun_s - end_s:.1f} s after the fault on",
                passed=0 < seen <= times * usual,
            )
            for what, seen, times in (
                (f"{word} in the first {self.first_s:g} s", first, self.first_times),
                (f"{word} in the next seconds", later, self.most_times),
            )
        ]

    def _begun_s(self, recording: Recording, count: _Count, usual: float) -> float:
        """Return when the rate was at least half the usual one again."""
        _, end_s = recording.trouble_s
        at_s = end_s
        while at_s < recording.ended_s:
            if count.rate(at_s, at_s + _SPAN_S) >= usual / 2:
                return at_s
            at_s += _STEP_S
        return end_s


class _Count:
    """A counter of all servers together at any time, in a straight line between samples."""

    def __init__(self, recording: Recording, name: str) -> None:
        self._times_s: list[float] = []
        self._totals: list[float] = []
        total = 0.0
        last: dict[int, float] = {}
        for sample in recording.samples:
            value: float = getattr(sample, name)
            before = last.get(sample.server, value)
            # A server that was started again begins at 0.
            total += value - before if value >= before else value
            last[sample.server] = value
            self._times_s.append(sample.at_s)
            self._totals.append(total)

    def rate(self, begin_s: float, end_s: float) -> float:
        return (self._at(end_s) - self._at(begin_s)) / (end_s - begin_s)

    def fastest(self, begin_s: float, end_s: float) -> float:
        """Return the highest rate of any second in this time."""
        steps = int((end_s - begin_s - _SPAN_S) / _STEP_S) + 1
        starts = (begin_s + step * _STEP_S for step in range(steps))
        return max(self.rate(at_s, at_s + _SPAN_S) for at_s in starts)

    def _at(self, at_s: float) -> float:
        times_s, totals = self._times_s, self._totals
        after = bisect_left(times_s, at_s)
        if after == 0 or after == len(times_s):
            return totals[min(after, len(totals) - 1)] if totals else 0.0
        share = (at_s - times_s[after - 1]) / (times_s[after] - times_s[after - 1])
        return totals[after - 1] + share * (totals[after] - totals[after - 1])
