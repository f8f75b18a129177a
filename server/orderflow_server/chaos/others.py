"""Expectations on the orders that a fault does not concern, and on how soon others recover.

The others are the orders that are placed while the faults last and are not odd, see `Placed`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orderflow_server.chaos.expectations import Verdict
from orderflow_server.chaos.recording import OK, Placed, Recording


class Settlement:
    """The base of the expectations for which each order is watched until it is settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledInline(Settlement):
    """So many of the others, in per cent, are settled in the answer to their own call."""

    at_least_percent: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        others = recording.others().values()
        inline = sum(order.inline for order in others)
        percent = 100 * inline / len(others) if others else 0.0
        return [
            Verdict(
                what="other orders settled in the answer",
                wanted=f">= {self.at_least_percent:g} %",
                seen=f"{percent:.1f} % of {len(others)}",
                passed=percent >= self.at_least_percent,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class SettledWithin(Settlement):
    """The others are settled so soon after their call began.

    Attributes:
        at_most_s: What soon means.
        percent: Of them. 100: all of them, without an exception.
    """

    at_most_s: float
    percent: int = 99

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        others = recording.others().values()
        took_s = rank((_settling_s(order) for order in others), self.percent)
        return [
            Verdict(
                what=f"p{self.percent} of the others until settled",
                wanted=f"<= {self.at_most_s:g} s",
                seen=f"{_seconds(took_s)}, {len(others)} orders",
                passed=bool(others) and took_s <= self.at_most_s,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class OddSettle(Settlement):
    """The odd orders are settled so soon after the end of the last fault, all of them."""

    within_s: float

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        _, end_s = recording.trouble_s
        odd = [order for order in recording.orders.values() if order.odd]
        last_s = rank((order.settled_s or math.inf for order in odd), 100) - end_s
        return [
            Verdict(
                what="the last odd order was settled",
                wanted=f"within {self.within_s:g} s of the end of the fault",
                seen=f"{_seconds(last_s)} after it, {len(odd)} orders",
                passed=bool(odd) and last_s <= self.within_s,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsWithin:
    """The first event of each of the others is received so soon after it was acknowledged.

    Attributes:
        at_most_s: What soon means.
        percent: Of them. 100: all of them.
    """

    at_most_s: float
    percent: int = 99

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        others = recording.others()
        delays_s = (
            recording.published.get(order_id, math.inf) - order.acknowledged_s
            for order_id, order in others.items()
        )
        took_s = rank(delays_s, self.percent)
        return [
            Verdict(
                what=f"p{self.percent} of the others until their event",
                wanted=f"<= {self.at_most_s:g} s",
                seen=f"{_seconds(took_s)}, {len(others)} orders",
                passed=bool(others) and took_s <= self.at_most_s,
            )
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAtOnce:
    """After the last fault each order is found as soon as it is acknowledged."""

    def judge(self, recording: Recording) -> Sequence[Verdict]:
        _, end_s = recording.trouble_s
        reads = [read for read in recording.reads if read.begun_s >= end_s]
        missing = sum(read.outcome == "NOT_FOUND" for read in reads)
        found = sum(read.outcome == OK for read in reads)
        return [
            Verdict(
                what="acknowledged orders that were not found",
                wanted="0",
                seen=f"{missing} of {len(reads)}; {found} found",
                passed=not missing and found > 0,
            )
        ]


def rank(values: Iterable[float], percent: int) -> float:
    """Return the smallest value that so many per cent do not exceed; infinite for no values.

    Not interpolated: an order that was never settled counts as infinite.
    """
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] if ordered else math.inf


def _settling_s(order: Placed) -> float:
    return math.inf if order.settled_s is None else order.settled_s - order.begun_s


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f} s"
