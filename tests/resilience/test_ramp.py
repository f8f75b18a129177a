"""After an outage the backlog comes back at a rate that grows while the gateway answers."""

from __future__ import annotations

import itertools
import math

import pytest

from orderflow_client.resilience.events import BreakerChanged, BreakerState
from orderflow_client.resilience.ramp import RecoveryRamp

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Ramp:
    """The ramp, and a worker that always has more to do and starts all that it may."""

    def __init__(self, max_per_s: float = math.inf) -> None:
        self.now_s = 0.0
        self.ramp = RecoveryRamp(max_per_s=max_per_s, clock=lambda: self.now_s)

    def usual(self, per_s: int) -> None:
        for _ in range(10):
            for _ in range(per_s):
                self.ramp.answered()
            self.now_s += 1.0

    def change(self, old: BreakerState, new: BreakerState) -> None:
        self.ramp(BreakerChanged(name="gateway", old=old, new=new, open_for_s=0.0))

    def outage(self) -> None:
        self.change(CLOSED, OPEN)
        self.now_s += 30.0
        self.change(OPEN, HALF_OPEN)
        self.change(HALF_OPEN, CLOSED)

    def one_second(self, *, good: bool = True) -> int:
        started = 0
        end_s = self.now_s + 1.0
        while self.now_s < end_s - 1e-9:
            count = self.ramp.take(16)
            self.ramp.started(count)
            started += count
            for _ in range(count):
                self.ramp.answered() if good else self.ramp.unanswered()
            self.now_s += 0.01
        return started


def test_without_an_outage_nothing_is_bounded() -> None:
    it = Ramp()
    assert it.ramp.take(16) == 16
    assert it.ramp.rest_s == 0


def test_it_begins_with_the_usual_rate_and_grows_while_answers_are_good() -> None:
    it = Ramp()
    it.usual(40)
    it.outage()
    rates = [it.one_second() for _ in range(5)]
    assert rates[0] == pytest.approx(40, abs=5)
    for before, after in itertools.pairwise(rates):
        assert after == pytest.approx(1.5 * before, rel=0.2)


def test_it_falls_while_answers_are_missing() -> None:
    it = Ramp()
    it.usual(40)
    it.outage()
    rates = [it.one_second(good=False) for _ in range(4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] <= 10


def test_it_never_exceeds_the_setting() -> None:
    it = Ramp(max_per_s=50)
    it.usual(40)
    it.outage()
    assert max(it.one_second() for _ in range(8)) <= 51


def test_a_quiet_service_begins_slowly_and_not_at_nothing() -> None:
    it = Ramp()
    it.now_s += 60.0
    it.outage()
    assert it.one_second() == pytest.approx(10, abs=2)


def test_it_ends_with_the_backlog() -> None:
    it = Ramp()
    it.outage()
    it.ramp.ends()
    assert it.ramp.take(16) == 16


def test_an_outage_during_it_keeps_the_rate_of_before_the_first() -> None:
    it = Ramp()
    it.usual(40)
    it.outage()
    it.outage()
    assert it.one_second() == pytest.approx(40, abs=5)


def test_the_rest_is_until_the_next_order_may_start() -> None:
    it = Ramp()
    it.outage()
    it.ramp.started(it.ramp.take(16))
    assert it.ramp.take(16) == 0
    it.now_s += it.ramp.rest_s + 1e-9
    assert it.ramp.take(16) == 1
