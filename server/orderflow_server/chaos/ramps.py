"""What is expected of the load on something that is back: it grows, and does not jump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orderflow_server.chaos.expectations import Verdict
from orderflow_server.chaos.recording import Recording

CounterName = Literal["attempts", "published"]

_WORDS = {"attempts": "attempts at the gateway", "published": "events published"}
_SPAN_S = 1.0
_STEP_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """After the fault the rate begins low and stays below a bound.

    Rates are counted over a second, and compared with the rate before the fault. The time begins
    with the first second after the fault in which more is done than in the last one of the fault.

    Attributes:
        counter: What is counted.
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
        usual = recording.counted(self.counter, 0, begin_s) / begin_s
        begun_s = self._begun_s(recording, usual)
        first = _fastest(recording, self.counter, begun_s, begun_s + self.first_s)
        later = _fastest(recording, self.counter, begun_s + self.first_s, begun_s + 10)
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

    def _begun_s(self, recording: Recording, usual: float) -> float:
        """Return when the rate was first half the usual one again."""
        _, end_s = recording.trouble_s
        at_s = end_s
        while at_s < recording.ended_s:
            if recording.counted(self.counter, at_s, at_s + _SPAN_S) >= usual / 2:
                return at_s
            at_s += _STEP_S
        return end_s


def _fastest(recording: Recording, counter: str, begin_s: float, end_s: float) -> float:
    """Return the highest rate of any second in this time."""
    steps = int((end_s - begin_s - _SPAN_S) / _STEP_S) + 1
    starts = (begin_s + step * _STEP_S for step in range(max(1, steps)))
    return max(recording.counted(counter, at_s, at_s + _SPAN_S) / _SPAN_S for at_s in starts)
