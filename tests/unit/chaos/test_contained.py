"""The expectations on what a fault concerns: set aside, parked, ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orderflow_server.chaos.contained import EventsSetAside, Exits, NoneBelieved, NoneParked
from orderflow_server.chaos.expectations import Expectation
from orderflow_server.chaos.lies import lies
from orderflow_server.chaos.ramps import Ramp
from orderflow_server.chaos.recording import OK, Call, ExitSeen, FaultSeen, Recording, Sample


def sample(
    at_s: float, *, parked: float = 0.0, refused_events: float = 0.0, attempts: float = 0.0
) -> Sample:
    return Sample(
        at_s=at_s,
        server=1,
        gateway_breaker="closed",
        store_breaker="closed",
        attempts=attempts,
        retries=0.0,
        limit=100.0,
        in_flight=1.0,
        parked=parked,
        refused_events=refused_events,
    )


def passed(expectation: Expectation, recording: Recording) -> list[bool]:
    return [verdict.passed for verdict in expectation.judge(recording)]


def test_some_event_is_set_aside() -> None:
    aside = Recording(samples=[sample(1), sample(2, refused_events=1)])
    assert passed(EventsSetAside(), aside) == [True]
    assert passed(EventsSetAside(), Recording(samples=[sample(1)])) == [False]


def test_an_order_that_is_parked_for_a_moment_is_noticed() -> None:
    assert passed(NoneParked(), Recording(samples=[sample(1)])) == [True]
    parked = Recording(samples=[sample(1, parked=1), sample(2)])
    assert passed(NoneParked(), parked) == [False]
    assert passed(NoneParked(), Recording()) == [False]


@pytest.mark.parametrize(
    ("lied_to", "believed", "parked", "expected"),
    [
        ("ab", "", 2, [True, True]),
        ("ab", "", 1, [True, True]),  # the other was asked about again
        ("ab", "a", 1, [False, True]),
        ("ab", "", 0, [True, False]),
        ("ab", "", 3, [True, False]),  # one that nobody lied about
        ("", "", 0, [False, False]),  # nothing was shown
    ],
)
def test_orders_that_were_lied_to_are_parked_and_not_paid(
    lied_to: str, believed: str, parked: float, expected: list[bool]
) -> None:
    recording = Recording(
        samples=[sample(1, parked=parked), sample(2)],
        lied_to=frozenset(lied_to),
        believed=frozenset(believed),
    )
    assert passed(NoneBelieved(), recording) == expected


def test_lies_are_found_in_the_log_of_the_simulator(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    lines = [
        {"event": "payment simulator is serving"},
        {"event": "answer is a lie", "reference": "a", "lie": "OTHER_AMOUNT"},
        {"event": "answer is a lie", "reference": "b", "lie": "INVALID_TEXT"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert list(lies(log)) == [("a", True), ("b", False)]


def exited(
    *, code: int = 1, at_s: float = 12.0, acknowledged_s: float = 10.5, ends: bool = True
) -> Recording:
    """A fault lasted from 10 s to 20 s."""
    return Recording(
        faults=[FaultSeen(what="file deleted", begin_s=10, end_s=20)],
        calls=[
            Call(begun_s=acknowledged_s, took_s=0.0, outcome=OK),
            Call(begun_s=11.5, took_s=0.1, outcome="UNAVAILABLE"),
        ],
        exits=[ExitSeen(at_s=at_s, server=1, code=code)] if ends else [],
    )


@pytest.mark.parametrize(
    ("recording", "expected"),
    [
        (exited(), [True, True]),
        (exited(code=0), [True, False]),
        (exited(at_s=13.1), [True, False]),  # late
        (exited(at_s=9.0), [True, False]),  # an earlier one
        (exited(ends=False), [True, False]),
        (exited(acknowledged_s=11.5), [False, True]),
        (exited(acknowledged_s=19.0, ends=False), [False, False]),
        (exited(acknowledged_s=12.5), [True, True]),  # by the server that was started again
    ],
)
def test_a_server_ends_and_acknowledges_nothing_before_that(
    recording: Recording, expected: list[bool]
) -> None:
    expectation = Exits(code=1, noticed_within_s=1.0, within_s=3.0)
    assert passed(expectation, recording) == expected


def ramp(first_per_s: float, later_per_s: float, *, from_s: float = 21.0) -> list[bool]:
    """10 attempts a second before a fault from 10 s to 20 s, none in it, and then so many."""

    def attempts_until(at_s: float) -> float:
        first_s = min(max(at_s - from_s, 0.0), 2.0)
        later_s = max(at_s - from_s - 2.0, 0.0)
        return 10 * min(at_s, 10.0) + first_per_s * first_s + later_per_s * later_s

    recording = Recording(
        faults=[FaultSeen(what="gateway down", begin_s=10, end_s=20)],
        samples=[sample(at / 4, attempts=attempts_until(at / 4)) for at in range(160)],
        ended_s=40,
    )
    expectation = Ramp(counter="attempts", first_s=2, first_times=4, most_times=10)
    return passed(expectation, recording)


@pytest.mark.parametrize(
    ("first_per_s", "later_per_s", "expected"),
    [
        (20, 90, [True, True]),
        (90, 90, [False, True]),
        (20, 150, [True, False]),
        (10, 10, [True, True]),
    ],
)
def test_the_load_on_what_is_back_grows_within_its_bounds(
    first_per_s: float, later_per_s: float, expected: list[bool]
) -> None:
    assert ramp(first_per_s, later_per_s) == expected


def test_the_ramp_begins_with_the_load_and_not_with_the_end_of_the_fault() -> None:
    assert ramp(90, 90, from_s=28.0) == [False, True]


def test_a_load_that_never_came_back_is_no_ramp() -> None:
    assert ramp(0, 0) == [False, False]
