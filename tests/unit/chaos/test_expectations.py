from __future__ import annotations

from collections.abc import Sequence

import pytest

from orderflow_server.chaos.events_audit import EventsAudit
from orderflow_server.chaos.expectations import (
    AlertFires,
    Amplification,
    BooksAgree,
    BreakerOpensAndCloses,
    BreakerStaysClosed,
    EventsAgree,
    Expectation,
    Goodput,
    Latency,
    Recovers,
    Refusals,
    Retries,
    SuccessRate,
)
from orderflow_server.chaos.recording import (
    OK,
    REFUSED,
    AlertsSeen,
    Call,
    FaultSeen,
    Recording,
    Sample,
)
from orderflow_server.payments.audit import Audit


def calls(*outcomes: str, took_s: float = 0.01) -> list[Call]:
    return [
        Call(begun_s=float(number), took_s=took_s, outcome=outcome)
        for number, outcome in enumerate(outcomes)
    ]


def sample(
    at_s: float,
    *,
    server: int = 1,
    gateway: str = "closed",
    store: str = "closed",
    attempts: float = 0.0,
    retries: float = 0.0,
) -> Sample:
    return Sample(
        at_s=at_s,
        server=server,
        gateway_breaker=gateway,
        store_breaker=store,
        attempts=attempts,
        retries=retries,
        limit=100.0,
        in_flight=1.0,
    )


def fault(begin_s: float, end_s: float) -> FaultSeen:
    return FaultSeen(what="something", begin_s=begin_s, end_s=end_s)


def passed(expectation: Expectation, recording: Recording) -> Sequence[bool]:
    return [verdict.passed for verdict in expectation.judge(recording)]


@pytest.mark.parametrize(("at_least", "expected"), [(75.0, True), (76.0, False)])
def test_every_call_counts_for_the_success_rate(at_least: float, expected: bool) -> None:
    recording = Recording(calls=calls(OK, OK, OK, REFUSED))
    assert passed(SuccessRate(at_least_percent=at_least), recording) == [expected]


def test_no_calls_at_all_are_no_success() -> None:
    assert passed(SuccessRate(at_least_percent=0.1), Recording()) == [False]
    assert passed(Latency(p99_at_most_s=1.0), Recording()) == [False]


def test_the_latency_is_that_of_the_successes() -> None:
    recording = Recording(calls=calls(OK, OK) + calls("UNAVAILABLE", took_s=9.0))
    assert passed(Latency(p99_at_most_s=0.5), recording) == [True]
    recording.calls += calls(OK, took_s=9.0)
    assert passed(Latency(p99_at_most_s=0.5), recording) == [False]


def opens_and_closes(*samples: Sample) -> Sequence[bool]:
    expectation = BreakerOpensAndCloses(breaker="gateway", opened_within_s=2, closed_within_s=5)
    recording = Recording(samples=list(samples), faults=[fault(10, 20)])
    return passed(expectation, recording)


def test_a_breaker_that_opens_and_closes_soon_is_as_expected() -> None:
    seen = opens_and_closes(
        sample(9), sample(11, gateway="open"), sample(23, gateway="half_open"), sample(24)
    )
    assert seen == [True, True]


def test_a_breaker_that_never_opens_is_not() -> None:
    assert opens_and_closes(sample(9), sample(24)) == [False, False]


def test_a_breaker_that_opens_or_closes_late_is_not() -> None:
    assert opens_and_closes(sample(13, gateway="open"), sample(26)) == [False, False]


def test_a_breaker_that_stays_open_at_one_server_is_not() -> None:
    seen = opens_and_closes(
        sample(11, gateway="open"), sample(11, server=2, gateway="open"), sample(21)
    )
    assert seen == [True, False]


def test_another_breaker_does_not_count() -> None:
    assert opens_and_closes(sample(11, store="open"), sample(24)) == [False, False]


def test_a_breaker_that_opens_once_has_not_stayed_closed() -> None:
    expectation = BreakerStaysClosed(breaker="store")
    recording = Recording(samples=[sample(1), sample(2, gateway="open")])
    assert passed(expectation, recording) == [True]
    recording.samples += [sample(3, store="open"), sample(4)]
    assert passed(expectation, recording) == [False]


@pytest.mark.parametrize(("at_most", "expected"), [(1.25, True), (1.2, False)])
def test_retries_count_while_the_fault_lasts(at_most: float, expected: bool) -> None:
    recording = Recording(
        faults=[fault(10, 20)],
        samples=[
            sample(9, attempts=100, retries=50),
            sample(15, attempts=150, retries=60),
            sample(25, attempts=300, retries=200),
        ],
    )
    assert passed(Retries(at_most=at_most), recording) == [expected]


@pytest.mark.parametrize(("at_most", "expected"), [(2.0, True), (1.9, False)])
def test_the_load_on_the_gateway_is_that_of_the_orders_meanwhile(
    at_most: float, expected: bool
) -> None:
    recording = Recording(
        faults=[fault(1, 4)],
        calls=calls(OK, OK, "UNAVAILABLE", OK, OK),
        samples=[sample(0.5, attempts=50), sample(3, attempts=56), sample(5, attempts=99)],
    )
    assert passed(Amplification(at_most=at_most), recording) == [expected]


def test_a_restarted_server_counts_from_zero_again() -> None:
    recording = Recording(samples=[sample(1, attempts=10), sample(2, attempts=4)])
    assert recording.counted("attempts", 0, 3) == 14
    assert recording.counted("attempts", 1.5, 3) == 4


def test_the_servers_count_together() -> None:
    recording = Recording(
        samples=[sample(1, attempts=10), sample(1, server=2, attempts=5), sample(2, attempts=12)]
    )
    assert recording.counted("attempts", 0, 3) == 17


def test_goodput_is_that_of_the_faults_without_their_beginning() -> None:
    recording = Recording(
        faults=[fault(0, 6)], calls=calls(REFUSED, REFUSED, OK, OK, OK, OK, OK, OK)
    )
    assert passed(Goodput(at_least=1.0), recording) == [True]
    assert passed(Goodput(at_least=1.1), recording) == [False]


def test_after_a_while_all_calls_succeed_again() -> None:
    recording = Recording(faults=[fault(0, 2)], calls=calls(OK, "INTERNAL", "INTERNAL", OK, OK))
    assert passed(Recovers(within_s=0.5), recording) == [True]
    recording.faults = [fault(0, 1)]
    assert passed(Recovers(within_s=0.5), recording) == [False]


def test_without_calls_afterwards_nothing_has_recovered() -> None:
    recording = Recording(faults=[fault(0, 9)], calls=calls(OK))
    assert passed(Recovers(within_s=0.5), recording) == [False]


def test_too_much_load_is_refused_and_nothing_else_fails() -> None:
    expectation = Refusals(failed_at_most_percent=10)
    assert passed(expectation, Recording(calls=calls(OK, REFUSED))) == [True, True]
    assert passed(expectation, Recording(calls=calls(OK, OK))) == [False, True]
    assert passed(expectation, Recording(calls=calls(OK, REFUSED, "INTERNAL"))) == [True, False]


@pytest.mark.parametrize(
    ("audit", "expected"),
    [
        (Audit(), [True, True, True, True]),
        (Audit(lost=["a"]), [False, True, True, True]),
        (Audit(double_charged=["a"]), [True, False, True, True]),
        (Audit(unpaid=["a"]), [True, True, False, True]),
        (Audit(overcharged=["a"]), [True, True, False, True]),
        (Audit(unknown=["a"]), [True, True, False, True]),
        (Audit(unsettled=["a"]), [True, True, True, False]),
        (None, [False]),
    ],
)
def test_the_books_agree_when_the_audit_is_clean(
    audit: Audit | None, expected: Sequence[bool]
) -> None:
    assert passed(BooksAgree(), Recording(audit=audit)) == expected


def alert(*moments: tuple[float, bool], not_seen: str = "") -> Recording:
    return Recording(
        alerts=[
            AlertsSeen(at_s=at_s, firing=frozenset({"It", "Other"} if fires else {"Other"}))
            for at_s, fires in moments
        ],
        alerts_not_seen=not_seen,
        faults=[fault(10, 20)],
    )


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ([(9, False), (11, True), (24, False)], [True, True]),
        ([(13, True), (24, False)], [False, True]),  # late
        ([(11, True), (26, False)], [True, False]),  # cleared late
        ([(11, True), (24, True)], [True, False]),  # never cleared
        ([(9, True), (24, False)], [False, True]),  # for no reason
        ([(11, True), (15, False), (22, True), (24, False)], [True, True]),  # again
        ([(11, True), (15, False), (22, True), (26, False)], [True, False]),
        ([(11, False)], [False, False]),
    ],
)
def test_an_alert_fires_within_its_time_and_clears_within_its_time(
    moments: list[tuple[float, bool]], expected: list[bool]
) -> None:
    expectation = AlertFires(alert="It", fires_within_s=2, clears_within_s=5)
    assert passed(expectation, alert(*moments)) == expected


def test_alerts_that_nobody_looked_at_are_not_checked_and_have_not_passed() -> None:
    expectation = AlertFires(alert="It", fires_within_s=2, clears_within_s=5)
    for verdict in expectation.judge(alert(not_seen="no prometheus")):
        assert not verdict.passed
        assert (verdict.word, verdict.seen) == ("not checked", "no prometheus")


def test_events_that_could_not_be_read_do_not_agree() -> None:
    assert passed(EventsAgree(), Recording()) == [False]


def test_each_way_in_which_events_can_differ_is_told() -> None:
    recording = Recording(events=EventsAudit(lost=["a"], disordered=["b", "c"]), placed=3)
    verdicts = EventsAgree().judge(recording)
    assert [verdict.seen for verdict in verdicts] == ["1 of 3", "0 of 3", "2 of 3", "0 of 3"]
    assert [verdict.passed for verdict in verdicts] == [False, True, False, True]
