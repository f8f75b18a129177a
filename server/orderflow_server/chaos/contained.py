"""Expectations on the faulty part itself: set aside, parked or ended, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orderflow_server.chaos.expectations import Verdict
from orderflow_server.chaos.recording import OK, Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSetAside:
    """Events that the stream refuses are counted as refused."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        refused = recording.counted("refused_events", 0, math.inf)
        return [
            Verdict(
                what="events set aside",
                wanted="some",
                seen=f"{refused:.0f}",
                passed=refused > 0,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneParked:
    """At no time an order is parked."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        most = max((sample.parked for sample in recording.samples), default=0.0)
        return [
            Verdict(
                what="orders parked at most",
                wanted="0",
                seen=f"{most:.0f}",
                passed=bool(recording.samples) and not most,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoneBelieved:
    """Orders about which the gateway gave a wrong answer are parked, and none of them is PAID."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        most = max((sample.parked for sample in recording.samples), default=0.0)
        lied_to, believed = len(recording.lied_to), len(recording.believed)
        return [
            Verdict(
                what="orders PAID on a wrong answer",
                wanted="0",
                seen=f"{believed} of {lied_to}",
                passed=lied_to > 0 and not believed,
            ),
            Verdict(
                what="orders parked",
                wanted=f"at most the {lied_to} that were lied to, and some",
                seen=f"{most:.0f}",
                passed=0 < most <= lied_to,
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exits:
    """A server ends with this code, so soon after the fault began, and acknowledges no order then.

    Attributes:
        code: The exit code.
        noticed_within_s: From then on no order is acknowledged until it ends.
        within_s: Since the fault began.
    """

    code: int
    noticed_within_s: float
    within_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        seen = next((each for each in recording.exits if each.at_s >= begin_s), None)
        exited_s = math.inf if seen is None else seen.at_s - begin_s
        too_late = sum(
            begin_s + self.noticed_within_s < call.ended_s < min(end_s, begin_s + exited_s)
            for call in recording.calls
            if call.outcome == OK
        )
        return [
            Verdict(
                what="orders acknowledged after that was noticed",
                wanted=f"0 later than {self.noticed_within_s:g} s after the fault",
                seen=f"{too_late}",
                passed=not too_late,
            ),
            Verdict(
                what="the server ended",
                wanted=f"with {self.code} within {self.within_s:g} s of the fault",
                seen="never" if seen is None else f"with {seen.code} after {exited_s:.1f} s",
                passed=seen is not None and seen.code == self.code and exited_s <= self.within_s,
            ),
        ]
