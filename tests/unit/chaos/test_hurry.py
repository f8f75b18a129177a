from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.outside import program

from orderflow_server.chaos.hurry import hurried, shorter
from orderflow_server.chaos.prometheus import RULES


def rule(expression: str, **more: str) -> dict[str, Any]:
    return {"groups": [{"name": "any", "rules": [{"alert": "It", "expr": expression, **more}]}]}


def expression(text: str) -> str:
    hurried_rule = hurried(rule(text), speed=60)["groups"][0]["rules"][0]
    assert isinstance(hurried_rule["expr"], str)
    return hurried_rule["expr"]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("1m", "1000ms"), ("15s", "250ms"), ("1h30m", "90000ms"), ("-2m", "-2000ms"), ("0s", "0ms")],
)
def test_a_duration_is_divided(duration: str, expected: str) -> None:
    assert shorter(duration, 60) == expected


def test_what_would_be_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="50ms is too short to be made 60 times shorter"):
        shorter("50ms", 60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rate(calls_total[5m]) > 0.25", "rate(calls_total[5000ms]) > 0.25"),
        ("max_over_time(up[1h:30s])", "max_over_time(up[60000ms:500ms])"),
        ("max_over_time(up[1h:])", "max_over_time(up[60000ms:])"),
        ("calls_total offset 1h", "calls_total offset 60000ms"),
        ("max by (job) (x_age_seconds) > 600", "max by (job) (x_age_seconds) > 10"),
        ('x_lag_seconds{job="a"} >= 60', 'x_lag_seconds{job="a"} >= 1'),
    ],
)
def test_the_durations_of_an_expression_are_divided(text: str, expected: str) -> None:
    assert expression(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        'orderflow:slo_burn:rate5m{slo="availability"} > 14.4',  # a name, not a range
        "histogram_quantile(0.99, x_lag_seconds_bucket) > 0.25",  # how late, not for how long
        "orderflow_retry_budget_tokens <= 5",
        'x{window="5m"} == 0',
    ],
)
def test_what_is_no_duration_is_left_alone(text: str) -> None:
    assert expression(text) == text


def test_how_long_an_alert_waits_and_how_often_it_is_evaluated_are_divided() -> None:
    rules = rule("up == 0", **{"for": "2m", "keep_firing_for": "1m"})
    rules["groups"][0]["interval"] = "30s"
    group = hurried(rules, speed=60)["groups"][0]
    assert group["interval"] == "500ms"
    assert group["rules"][0]["for"] == "2000ms"
    assert group["rules"][0]["keep_firing_for"] == "1000ms"


def test_the_rules_that_are_given_stay_as_they_are() -> None:
    rules = rule("rate(calls_total[5m]) > 1", **{"for": "2m"})
    before = copy.deepcopy(rules)
    hurried(rules)
    assert rules == before


def test_prometheus_accepts_the_projects_rules_in_a_hurry(tmp_path: Path) -> None:
    promtool = program("promtool", "it comes with Prometheus")
    for path in RULES.glob("*.yaml"):
        (tmp_path / path.name).write_text(yaml.safe_dump(hurried(yaml.safe_load(path.read_text()))))
    written = [str(path) for path in tmp_path.iterdir()]
    checked = subprocess.run(
        [promtool, "check", "rules", *written], check=False, text=True, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


def test_of_the_projects_rules_every_duration_is_divided() -> None:
    for path in RULES.glob("*.yaml"):
        rules = yaml.safe_load(path.read_text())
        for group in hurried(rules)["groups"]:
            for each in group["rules"]:
                assert "[5m]" not in each["expr"], each
                assert "_seconds) > 60" not in each["expr"], each
                assert each.get("for", "0ms").endswith("ms"), each
