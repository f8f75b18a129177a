from __future__ import annotations

from random import Random

import pytest
from deploy.queries import rules

from orderflow_server.chaos.expectations import AlertFires
from orderflow_server.chaos.scenario import JITTER_S, Scenario, Window, load_at
from orderflow_server.chaos.scenarios import SCENARIOS

_EACH = pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())


@_EACH
def test_each_ends_its_faults_before_its_load(scenario: Scenario) -> None:
    for window in scenario.windows:
        assert 0 < window.begin_s < window.end_s < scenario.duration_s - JITTER_S


@_EACH
def test_each_begins_a_fault_after_the_one_before_has_ended(scenario: Scenario) -> None:
    """Two of a kind at once would mend each other."""
    for before, after in zip(scenario.windows, scenario.windows[1:], strict=False):
        assert before.end_s + JITTER_S < after.begin_s


@_EACH
def test_each_expects_alerts_that_there_are(scenario: Scenario) -> None:
    there_are = {rule["alert"] for rule in rules() if "alert" in rule}
    assert scenario.alerts <= there_are


@_EACH
def test_each_goes_on_placing_orders_until_its_alerts_should_have_cleared(
    scenario: Scenario,
) -> None:
    """An alert on calls that fail clears, too, when there are no calls."""
    end_s = max(window.end_s for window in scenario.windows)
    for expected in scenario.expectations:
        if isinstance(expected, AlertFires) and expected.alert.startswith("Availability"):
            assert end_s + JITTER_S + expected.clears_within_s <= scenario.duration_s


def test_one_seed_gives_one_schedule_and_another_another() -> None:
    scenario = SCENARIOS["server-killed"]
    assert scenario.schedule(Random(1)) == scenario.schedule(Random(1))
    assert scenario.schedule(Random(1)) != scenario.schedule(Random(2))


def test_a_fault_keeps_its_length() -> None:
    scenario = SCENARIOS["gateway-down"]
    (planned,) = scenario.windows
    (its,) = scenario.schedule(Random(3))
    assert its.end_s - its.begin_s == pytest.approx(planned.end_s - planned.begin_s)
    assert planned.begin_s <= its.begin_s <= planned.begin_s + JITTER_S


def test_the_load_grows_within_the_window_only() -> None:
    windows = [Window(what="too much", begin_s=1, end_s=2, load=4.0)]
    assert [load_at(windows, at_s) for at_s in (0.9, 1.0, 1.9, 2.0)] == [1.0, 4.0, 4.0, 1.0]
