"""Every alert fires when it should, clears when it should, and says what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.outside import program
from deploy.queries import DEPLOY, ROOT, RULE_TESTS, RULES, rules

PROMETHEUS = DEPLOY / "prometheus"
ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def promtool(*arguments: str) -> None:
    result = subprocess.run(
        [program("promtool", "it comes with Prometheus"), *arguments],
        cwd=PROMETHEUS,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", *map(str, RULES))


@pytest.mark.e2e  # promtool steps through a month
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_as_their_tests_say(path: Path) -> None:
    promtool("test", "rules", str(path))


def seconds(duration: str) -> int:
    return sum(
        int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration)
    )


def fires_and_clears(test: dict[str, Any], alert: str) -> bool:
    """Whether there is a moment in the test at which the alert fires, and a later one without."""
    moments = sorted(
        (seconds(moment["eval_time"]), bool(moment["exp_alerts"]))
        for moment in test.get("alert_rule_test", [])
        if moment["alertname"] == alert
    )
    firing = [at for at, fires in moments if fires]
    return bool(firing) and any(at > max(firing) and not fires for at, fires in moments)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_seen_firing_and_clearing(alert: str) -> None:
    tests = [test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    assert any(fires_and_clears(test, alert) for test in tests)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_how_bad_it_is_and_leads_to_its_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"page", "ticket"}
    annotations = rule["annotations"]
    assert annotations["summary"]
    assert annotations["description"]
    page, _, anchor = annotations["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert anchor in {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
