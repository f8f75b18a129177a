"""A breaker tells a failing subject from a target that is down."""

from __future__ import annotations

import pytest
from resilience.test_breaker import CLOSED, HALF_OPEN, OPEN, make_breaker
from resilience.virtual_time import VirtualTime

from orderflow_client.resilience.breaker import Breaker, BreakerOptions, Finding, Outcome
from orderflow_client.resilience.subject import about, current_subject

WITH_PROOF = BreakerOptions(proof_s=3.0)


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def attempt(breaker: Breaker, subject: str, finding: Finding) -> None:
    with about(subject):
        breaker.acquire().settle(finding)


def open_it(breaker: Breaker) -> None:
    number = 0
    while breaker.state is CLOSED:
        attempt(breaker, f"first-{number}", Outcome.FAILURE)
        number += 1
    assert breaker.state is OPEN


def test_a_subject_is_named_for_the_block_only() -> None:
    with about("a"):
        with about("b"):
            assert current_subject() == "b"
        assert current_subject() == "a"
    assert current_subject() is None


@pytest.mark.parametrize("finding", [Outcome.UNANSWERED, Outcome.FAILURE])
def test_one_failing_subject_never_opens_it_while_others_are_answered(
    time: VirtualTime, finding: Outcome
) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    for number in range(200):
        attempt(breaker, f"healthy-{number}", Outcome.SUCCESS)
        for _ in range(5):
            attempt(breaker, "hanging", finding)
        time.now_s += 0.5
    assert breaker.state is CLOSED


def test_25_hanging_subjects_beside_2_healthy_ones_a_second_do_not_open_it(
    time: VirtualTime,
) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    for second in range(60):
        for number in range(2):
            attempt(breaker, f"healthy-{second}-{number}", Outcome.SUCCESS)
        for number in range(25):
            attempt(breaker, f"hanging-{number}", Outcome.UNANSWERED)
        time.now_s += 1.0
        assert breaker.state is CLOSED


def test_without_proof_every_failure_counts(time: VirtualTime) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    for _ in range(20):
        attempt(breaker, "one", Outcome.UNANSWERED)
    assert breaker.state is OPEN


def test_proof_grows_old(time: VirtualTime) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    for number in range(30):
        attempt(breaker, f"healthy-{number}", Outcome.SUCCESS)
    time.now_s += 4.0
    for number in range(30):
        attempt(breaker, f"late-{number}", Outcome.UNANSWERED)
    assert breaker.state is OPEN


def test_a_few_answers_among_many_without_are_no_proof(time: VirtualTime) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    attempt(breaker, "healthy", Outcome.SUCCESS)
    for number in range(18):
        attempt(breaker, f"unanswered-{number}", Outcome.UNANSWERED)
    time.now_s += 1.0
    attempt(breaker, "unanswered-18", Outcome.UNANSWERED)
    assert breaker.state is OPEN


def test_errors_of_many_subjects_open_it_in_spite_of_answers(time: VirtualTime) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    for number in range(10):
        attempt(breaker, f"healthy-{number}", Outcome.SUCCESS)
        attempt(breaker, f"failing-{number}", Outcome.FAILURE)
    assert breaker.state is OPEN


def test_a_probe_by_a_subject_that_failed_before_decides_nothing_without_an_answer(
    time: VirtualTime,
) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    attempt(breaker, "hanging", Outcome.UNANSWERED)
    open_it(breaker)
    time.now_s += 5.0

    attempt(breaker, "hanging", Outcome.UNANSWERED)
    assert breaker.state is HALF_OPEN
    attempt(breaker, "healthy", Outcome.SUCCESS)
    assert breaker.state is CLOSED


@pytest.mark.parametrize(
    ("subject", "finding"), [("new", Outcome.UNANSWERED), ("first-0", Outcome.FAILURE)]
)
def test_any_other_probe_that_fails_opens_it_again(
    time: VirtualTime, subject: str, finding: Outcome
) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    open_it(breaker)
    time.now_s += 5.0
    attempt(breaker, subject, finding)
    assert breaker.state is OPEN


def test_a_subject_that_was_answered_is_trusted_again(time: VirtualTime) -> None:
    breaker = make_breaker(time, WITH_PROOF)
    attempt(breaker, "recovered", Outcome.UNANSWERED)
    attempt(breaker, "recovered", Outcome.SUCCESS)
    open_it(breaker)
    time.now_s += 5.0
    attempt(breaker, "recovered", Outcome.UNANSWERED)
    assert breaker.state is OPEN


def test_without_the_option_subjects_make_no_difference(time: VirtualTime) -> None:
    breaker = make_breaker(time, BreakerOptions())
    for number in range(10):
        attempt(breaker, f"healthy-{number}", Outcome.SUCCESS)
        attempt(breaker, "hanging", Outcome.UNANSWERED)
    assert breaker.state is OPEN


@pytest.mark.parametrize("proof_s", [0.0, -1.0, float("inf")])
def test_proof_s_must_be_positive(proof_s: float) -> None:
    with pytest.raises(ValueError, match="proof_s"):
        BreakerOptions(proof_s=proof_s)
