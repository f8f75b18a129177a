"""A benchmark that breaks is a broken bound, whatever an earlier run of it has left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import checks, run
from bench.checks import Check, conclude


@pytest.fixture(autouse=True)
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(checks, "RESULTS", tmp_path / "results")
    return tmp_path


def test_a_benchmark_that_fails_is_not_good_for_what_it_found_before(scripts: Path) -> None:
    conclude("some", [Check(name="ratio", measured=9.0, at_least=8.0)])
    (scripts / "some.py").write_text("raise SystemExit(3)")
    [check] = run.run("some", quick=False)
    assert (check.name, check.measured, check.good) == ("some: exit code", 3, False)


def test_what_a_benchmark_found_counts(scripts: Path) -> None:
    (scripts / "some.py").write_text(
        """
from pathlib import Path
found = '{"checks": [{"name": "ratio", "measured": 7.0, "at_least": 8.0, "good": false}], '
Path(__file__).with_name("results").mkdir()
Path(__file__).with_name("results").joinpath("some.json").write_text(found + '"figures": {}}')
raise SystemExit(1)
"""
    )
    assert run.run("some", quick=False) == [Check(name="ratio", measured=7.0, at_least=8.0)]


def test_a_failure_after_good_figures_is_seen(scripts: Path) -> None:
    (scripts / "some.py").write_text(
        """
from pathlib import Path
Path(__file__).with_name("results").mkdir()
found = '{"checks": [], "figures": {}}'
Path(__file__).with_name("results").joinpath("some.json").write_text(found)
raise SystemExit(1)
"""
    )
    [check] = run.run("some", quick=False)
    assert not check.good
