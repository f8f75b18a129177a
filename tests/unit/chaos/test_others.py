"""The expectations on the orders that a fault does not concern."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from orderflow_server.chaos.expectations import Expectation
from orderflow_server.chaos.others import (
    EventsWithin,
    FoundAtOnce,
    OddSettle,
    SettledInline,
    SettledWithin,
    rank,
)
from orderflow_server.chaos.recording import OK, Call, FaultSeen, Placed, Recording


def order(
    begun_s: float, settled_s: float | None, *, odd: bool = False, inline: bool = False
) -> Placed:
    return Placed(
        begun_s=begun_s, acknowledged_s=begun_s + 0.5, odd=odd, inline=inline, settled_s=settled_s
    )


def recording(
    *orders: Placed, published: dict[str, float] | None = None, reads: Sequence[Call] = ()
) -> Recording:
    """A fault lasted from 10 s to 20 s."""
    return Recording(
        faults=[FaultSeen(what="something", begin_s=10, end_s=20)],
        orders={str(number): each for number, each in enumerate(orders)},
        published=published or {},
        reads=list(reads),
    )


def passed(expectation: Expectation, seen: Recording) -> list[bool]:
    return [verdict.passed for verdict in expectation.judge(seen)]


def test_the_rank_is_a_value_that_was_seen_and_never_less_than_the_share_allows() -> None:
    assert rank([3.0, 1.0, 2.0, math.inf], 75) == 3.0
    assert rank([3.0, 1.0, 2.0, math.inf], 76) == math.inf
    assert rank([*range(100)], 99) == 98
    assert rank([], 99) == math.inf


@pytest.mark.parametrize(("at_least", "expected"), [(50.0, True), (51.0, False)])
def test_orders_settled_in_their_answers_are_counted_among_the_others_during_the_fault(
    at_least: float, expected: bool
) -> None:
    seen = recording(
        order(11, 11.5, inline=True),
        order(12, 15),
        order(12, 15, odd=True),  # the fault is its own
        order(9, 15),  # before the fault
        order(20, 25),  # after it
    )
    assert passed(SettledInline(at_least_percent=at_least), seen) == [expected]


def test_without_other_orders_nothing_was_shown() -> None:
    seen = recording(order(11, 11.5, odd=True, inline=True))
    assert passed(SettledInline(at_least_percent=1), seen) == [False]
    assert passed(SettledWithin(at_most_s=100), seen) == [False]
    assert passed(EventsWithin(at_most_s=100), seen) == [False]


@pytest.mark.parametrize(("settled_s", "expected"), [(13.0, True), (13.1, False), (None, False)])
def test_the_time_to_settle_begins_with_the_call(settled_s: float | None, expected: bool) -> None:
    seen = recording(order(11, settled_s), order(11, None, odd=True))
    assert passed(SettledWithin(at_most_s=2, percent=100), seen) == [expected]


def test_one_in_a_hundred_may_settle_late_unless_all_are_meant() -> None:
    seen = recording(*(order(11, 12) for _ in range(99)), order(11, None))
    assert passed(SettledWithin(at_most_s=2), seen) == [True]
    assert passed(SettledWithin(at_most_s=2, percent=100), seen) == [False]


@pytest.mark.parametrize(("settled_s", "expected"), [(25.0, True), (25.1, False), (None, False)])
def test_odd_orders_settle_after_the_fault_all_of_them(
    settled_s: float | None, expected: bool
) -> None:
    seen = recording(order(11, 20.5, odd=True), order(11, settled_s, odd=True), order(11, None))
    assert passed(OddSettle(within_s=5), seen) == [expected]


def test_without_odd_orders_none_has_settled() -> None:
    assert passed(OddSettle(within_s=5), recording(order(11, 12))) == [False]


@pytest.mark.parametrize(("at_s", "expected"), [(13.5, True), (13.6, False)])
def test_the_delay_of_an_event_begins_with_the_acknowledgement(at_s: float, expected: bool) -> None:
    seen = recording(order(11, 12), published={"0": at_s})
    assert passed(EventsWithin(at_most_s=2), seen) == [expected]


def test_an_event_that_never_came_is_late_and_that_of_an_odd_order_is_not_missed() -> None:
    assert passed(EventsWithin(at_most_s=99), recording(order(11, 12))) == [False]
    seen = recording(order(11, 12), order(11, 12, odd=True), published={"0": 12.0})
    assert passed(EventsWithin(at_most_s=2, percent=100), seen) == [True]


def read(begun_s: float, outcome: str) -> Call:
    return Call(begun_s=begun_s, took_s=0.01, outcome=outcome)


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([read(21, OK), read(22, "UNAVAILABLE")], True),
        ([read(19, "NOT_FOUND"), read(21, OK)], True),  # the fault itself
        ([read(21, OK), read(22, "NOT_FOUND")], False),
        ([read(21, "UNAVAILABLE")], False),  # nothing was shown
    ],
)
def test_an_acknowledged_order_that_is_not_found_after_the_fault_is_missed(
    reads: Sequence[Call], expected: bool
) -> None:
    assert passed(FoundAtOnce(), recording(reads=reads)) == [expected]
