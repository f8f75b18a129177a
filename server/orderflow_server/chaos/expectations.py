"""What is expected of the service in a scenario, and how a recording is judged by it.

Bounds are for what a person would call wrong, not for a good day: the machine may be busy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from orderflow_server.chaos.recording import OK, REFUSED, Recording, percentile

_GETTING_USED_S = 2.0

BreakerName = Literal["gateway", "store"]
Mark = Literal["passed", "failed", "not checked", "not all checked"]
"""The last is said of a scenario only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line of the outcome, in words.

    Attributes:
        what: What was looked at.
        wanted: What it should be.
        seen: What it was.
        passed: It was. Never true of what was not checked.
        checked: False: it could not be looked at; `seen` says why.
    """

    what: str
    wanted: str
    seen: str
    passed: bool
    checked: bool = True

    @property
    def word(self) -> Mark:
        if not self.checked:
            return "not checked"
        return "passed" if self.passed else "failed"


class Expectation(Protocol):
    """Judges a recording."""

    def judge(self, recording: Recording) -> Sequence[Verdict]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SuccessRate:
    """So many of all calls succeed, in per cent, as their callers see it."""

    at_least_percent: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        calls = recording.calls
        outcomes = Counter(call.outcome for call in calls)
        percent = 100 * outcomes.pop(OK, 0) / len(calls) if calls else 0.0
        others = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        return [
            Verdict(
                what="calls that succeeded",
                wanted=f">= {self.at_least_percent:g} %",
                seen=f"{percent:.2f} % of {len(calls)}" + (f"; {others}" if others else ""),
                passed=percent >= self.at_least_percent,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """No more than one in a hundred of the calls that succeeded takes longer."""

    p99_at_most_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        p99_s = percentile(recording.latencies_s(), 99)
        return [
            Verdict(
                what="p99 of the calls that succeeded",
                wanted=f"<= {self.p99_at_most_s:g} s",
                seen=f"{p99_s:.2f} s",
                passed=0 < p99_s <= self.p99_at_most_s,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOpensAndCloses:
    """The breaker opens soon after the first fault begins and is closed soon after the last ends.

    Attributes:
        opened_within_s, closed_within_s: What soon means.
    """

    breaker: BreakerName
    opened_within_s: float
    closed_within_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        opened = [
            at_s - begin_s
            for at_s, state in recording.changes(self.breaker)
            if state == "open" and at_s >= begin_s
        ]
        opened_verdict = Verdict(
            what=f"the {self.breaker}'s breaker opened",
            wanted=f"within {self.opened_within_s:g} s of the fault",
            seen=f"after {opened[0]:.1f} s" if opened else "never",
            passed=bool(opened) and opened[0] <= self.opened_within_s,
        )
        closed_s = _closed_for_good_s(recording, self.breaker)
        took_s = None if closed_s is None else max(0.0, closed_s - end_s)
        return [
            opened_verdict,
            Verdict(
                what=f"the {self.breaker}'s breaker closed",
                wanted=f"within {self.closed_within_s:g} s of the end of the fault",
                seen=_when(took_s) if opened else "it never opened",
                passed=bool(opened) and took_s is not None and took_s <= self.closed_within_s,
            ),
        ]


def _when(took_s: float | None) -> str:
    return "still open" if took_s is None else f"after {took_s:.1f} s"


def _closed_for_good_s(recording: Recording, breaker: str) -> float | None:
    """Since when it was closed at every server; None: at one it is not."""
    changes = list(recording.changes(breaker))
    last = {sample.server: sample.breaker(breaker) for sample in recording.samples}
    if any(state != "closed" for state in last.values()):
        return None
    return max((at_s for at_s, _ in changes), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerStaysClosed:
    """What is wrong is not of the kind that a breaker should open for."""

    breaker: BreakerName

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        opened = sum(state == "open" for _, state in recording.changes(self.breaker))
        return [
            Verdict(
                what=f"the {self.breaker}'s breaker opened",
                wanted="never",
                seen=f"{opened} times",
                passed=not opened,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFires:
    """An alert of deploy/prometheus fires because of the faults, and clears after them.

    Not before the first of them begins, soon after that, and no longer soon after the last ends;
    with a Prometheus in a hurry, see `hurry`.

    Attributes:
        alert: Its name.
        fires_within_s, clears_within_s: What soon means.
    """

    alert: str
    fires_within_s: float
    clears_within_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        fires, clears = f"the alert {self.alert} fired", f"the alert {self.alert} cleared"
        wanted_fires = f"within {self.fires_within_s:g} s of the fault"
        wanted_clears = f"within {self.clears_within_s:g} s of the end of the fault"
        if recording.alerts_not_seen:
            seen = recording.alerts_not_seen
            return [
                Verdict(what=what, wanted=wanted, seen=seen, passed=False, checked=False)
                for what, wanted in ((fires, wanted_fires), (clears, wanted_clears))
            ]
        begin_s, end_s = recording.trouble_s
        spans = recording.fired(self.alert)
        if not spans:
            return [
                Verdict(what=fires, wanted=wanted_fires, seen="never", passed=False),
                Verdict(what=clears, wanted=wanted_clears, seen="it never fired", passed=False),
            ]
        fired_s = spans[0][0] - begin_s
        cleared_s = spans[-1][1]
        took_s = None if cleared_s is None else max(0.0, cleared_s - end_s)
        return [
            Verdict(
                what=fires,
                wanted=wanted_fires,
                seen=f"after {fired_s:.1f} s" if fired_s >= 0 else "before it",
                passed=0 <= fired_s <= self.fires_within_s,
            ),
            Verdict(
                what=clears,
                wanted=wanted_clears,
                seen="it still fires" if took_s is None else f"after {took_s:.1f} s",
                passed=took_s is not None and took_s <= self.clears_within_s,
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """So many attempts reach the gateway while the faults last for each one that is no retry."""

    at_most: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        attempts = recording.counted("attempts", begin_s, end_s)
        first = attempts - recording.counted("retries", begin_s, end_s)
        seen = attempts / first if first > 0 else float("inf")
        return [
            Verdict(
                what="attempts at the gateway for each first one",
                wanted=f"<= {self.at_most:g}",
                seen=f"{seen:.2f} ({attempts:.0f} for {first:.0f})",
                passed=seen <= self.at_most,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amplification:
    """So many attempts reach the gateway for each order while the faults last; usual is 1.

    Retries are among them, and what the background worker asks again.
    """

    at_most: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        attempts = recording.counted("attempts", begin_s, end_s)
        orders = sum(begin_s <= call.begun_s < end_s for call in recording.calls)
        seen = attempts / orders if orders else float("inf")
        return [
            Verdict(
                what="attempts at the gateway for each order",
                wanted=f"<= {self.at_most:g}",
                seen=f"{seen:.2f} ({attempts:.0f} for {orders})",
                passed=seen <= self.at_most,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """So many calls a second succeed while the faults last, the first 2 s of them left out."""

    at_least: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        begin_s, end_s = recording.trouble_s
        begin_s += _GETTING_USED_S
        good = sum(
            call.outcome == OK and begin_s <= call.ended_s < end_s for call in recording.calls
        )
        seen = good / (end_s - begin_s)
        return [
            Verdict(
                what="goodput meanwhile",
                wanted=f">= {self.at_least:g}/s",
                seen=f"{seen:.0f}/s",
                passed=seen >= self.at_least,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovers:
    """So soon after the end of the last fault every call succeeds again."""

    within_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        _, end_s = recording.trouble_s
        later = [call for call in recording.calls if call.begun_s >= end_s]
        failed = [call.begun_s - end_s for call in later if call.outcome != OK]
        last_s = max(failed, default=0.0)
        return [
            Verdict(
                what="the last call that failed began",
                wanted=f"within {self.within_s:g} s of the end of the fault",
                seen=f"after {last_s:.1f} s" if failed else "before its end",
                passed=last_s <= self.within_s
                and any(call.begun_s - end_s > self.within_s for call in later),
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusals:
    """Under too much load some calls are refused, and none fails in another way.

    Attributes:
        failed_at_most_percent: Of all calls, in another way.
    """

    failed_at_most_percent: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        calls = recording.calls
        refused = sum(call.outcome == REFUSED for call in calls)
        failed = sum(call.outcome not in (OK, REFUSED) for call in calls)
        percent = 100 * failed / len(calls) if calls else 100.0
        return [
            Verdict(
                what="calls refused as too many",
                wanted="some",
                seen=f"{refused} of {len(calls)}",
                passed=refused > 0,
            ),
            Verdict(
                what="calls that failed otherwise",
                wanted=f"<= {self.failed_at_most_percent:g} %",
                seen=f"{percent:.2f} %",
                passed=percent <= self.failed_at_most_percent,
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BooksAgree:
    """Every acknowledged order is there and settled, and the gateway's ledger says the same."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        found = recording.audit
        if found is None:
            return [Verdict(what="audit", wanted="clean", seen="could not be done", passed=False)]
        return [
            Verdict(
                what=what,
                wanted="0",
                seen=f"{len(ids)} of {recording.placed}",
                passed=not ids,
            )
            for what, ids in {
                "orders lost": found.lost,
                "orders charged twice": found.double_charged,
                "orders and ledger differ": found.unpaid + found.overcharged + found.unknown,
                "orders still unsettled": found.unsettled,
            }.items()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAgree:
    """Each change of each order was published: once for who knows events by their ids, in order."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        found = recording.events
        if found is None:
            return [Verdict(what="events", wanted="all", seen="could not be read", passed=False)]
        return [
            Verdict(what=what, wanted="0", seen=f"{len(ids)} of {recording.placed}", passed=not ids)
            for what, ids in {
                "orders with an event lost": found.lost,
                "orders with an event twice": found.twice,
                "orders with events out of order": found.disordered,
                "orders with events that they never had": found.unknown,
            }.items()
        ]
