"""The simulator's faults: as often as asked, and the same ones again for the same seed."""

from __future__ import annotations

from random import Random
from statistics import median

import grpc
import pytest

from orderflow_server.payments.simulator.faults import (
    REFUSE_CODES,
    Ending,
    Fate,
    FaultInjector,
    Faults,
    Lie,
)

MIXED = Faults(
    error_rate=0.2,
    timeout_rate=0.1,
    lost_answer_rate=0.1,
    decline_rate=0.3,
    latency_median_s=0.05,
    latency_sigma=0.5,
)


def fates(seed: int, faults: Faults, calls: int = 2000) -> list[Fate]:
    injector = FaultInjector(Random(seed), faults)
    return [injector.draw() for _ in range(calls)]


def share(drawn: list[Fate], ending: Ending) -> float:
    return sum(fate.ending is ending for fate in drawn) / len(drawn)


def test_without_faults_every_call_is_answered_at_once() -> None:
    answered = Fate(ending=Ending.ANSWER, latency_s=0.0, declines=False)
    assert set(fates(1, Faults())) == {answered}


def test_one_seed_gives_one_history() -> None:
    assert fates(7, MIXED) == fates(7, MIXED)
    assert fates(7, MIXED) != fates(8, MIXED)


def test_faults_changed_meanwhile_do_not_shift_the_draws_that_follow() -> None:
    injector = FaultInjector(Random(7), Faults(outage=True))
    for _ in range(1000):
        injector.draw()
    injector.faults = MIXED

    assert [injector.draw() for _ in range(1000)] == fates(7, MIXED)[1000:]


def test_each_fault_comes_as_often_as_its_rate_says() -> None:
    drawn = fates(7, MIXED, calls=20_000)

    assert share(drawn, Ending.ERROR) == pytest.approx(0.2, abs=0.01)
    assert share(drawn, Ending.TIMEOUT) == pytest.approx(0.8 * 0.1, abs=0.01)
    assert share(drawn, Ending.LOST_ANSWER) == pytest.approx(0.8 * 0.9 * 0.1, abs=0.01)
    assert sum(fate.declines for fate in drawn) / len(drawn) == pytest.approx(0.3, abs=0.01)


def test_latency_is_lognormal_around_its_median() -> None:
    latencies = sorted(fate.latency_s for fate in fates(7, MIXED, calls=20_000))

    assert median(latencies) == pytest.approx(0.05, rel=0.03)
    assert latencies[int(0.99 * len(latencies))] == pytest.approx(3.2 * 0.05, rel=0.05)


def test_without_sigma_the_latency_is_always_the_median() -> None:
    assert {fate.latency_s for fate in fates(7, Faults(latency_median_s=0.2))} == {0.2}


@pytest.mark.parametrize(
    ("faults", "ending"),
    [
        (Faults(outage=True, refuse_code="UNKNOWN", error_rate=1), Ending.OUTAGE),
        (Faults(refuse_code="UNIMPLEMENTED", error_rate=1, timeout_rate=1), Ending.REFUSED),
        (Faults(error_rate=1, timeout_rate=1, lost_answer_rate=1), Ending.ERROR),
        (Faults(timeout_rate=1, lost_answer_rate=1), Ending.TIMEOUT),
        (Faults(lost_answer_rate=1), Ending.LOST_ANSWER),
    ],
)
def test_a_rate_of_one_means_always_and_the_first_fault_wins(
    faults: Faults, ending: Ending
) -> None:
    assert {fate.ending for fate in fates(7, faults)} == {ending}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("error_rate", -0.1),
        ("timeout_rate", 1.1),
        ("lost_answer_rate", float("nan")),
        ("decline_rate", 2),
        ("latency_median_s", 60.1),
        ("latency_sigma", 3.1),
        ("lie_rate", 1.1),
        ("refuse_code", "OK"),
        ("refuse_code", "NO_SUCH_CODE"),
    ],
)
def test_a_value_out_of_its_range_is_refused(name: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=name):
        Faults(**{name: value})  # type: ignore[arg-type]  # one field by its name


def test_only_a_charge_with_the_hanging_token_never_answers() -> None:
    injector = FaultInjector(Random(1), Faults(hanging_token="tok_hangs"))

    assert injector.draw("tok_hangs").ending is Ending.TIMEOUT
    assert injector.draw("tok_other").ending is Ending.ANSWER
    assert injector.draw().ending is Ending.ANSWER
    injector.faults = Faults()
    assert injector.draw("tok_hangs").ending is Ending.ANSWER


def test_answers_lie_as_often_as_asked_and_in_every_way_equally_often() -> None:
    drawn = [fate.lie for fate in fates(7, Faults(lie_rate=0.3), calls=20_000)]

    for lie in Lie:
        assert drawn.count(lie) / len(drawn) == pytest.approx(0.3 / len(Lie), abs=0.01)


def test_a_refused_call_is_given_the_code() -> None:
    assert {fate.refuse_code for fate in fates(7, Faults(refuse_code="UNKNOWN"))} == {"UNKNOWN"}
    outage = Faults(outage=True, refuse_code="UNKNOWN")
    assert {fate.refuse_code for fate in fates(7, outage)} == {""}


def test_every_status_but_ok_can_be_the_code_of_a_refusal() -> None:
    assert {code.name for code in grpc.StatusCode} == REFUSE_CODES | {"OK"}
