"""A broken bound is seen, in the table, in the file and in the exit code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench import checks
from bench.checks import Check, conclude, ratio, read


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checks, "RESULTS", tmp_path)
    monkeypatch.setattr(checks, "QUICK_RESULTS", tmp_path / "quick")
    return tmp_path


def test_the_bound_itself_is_good() -> None:
    assert Check(name="ratio", measured=8.0, at_least=8.0).good
    assert Check(name="ratio", measured=1.3, at_most=1.3).good


def test_what_is_past_its_bound_is_not_good() -> None:
    assert not Check(name="ratio", measured=7.9, at_least=8.0).good
    assert not Check(name="ratio", measured=1.31, at_most=1.3).good


def test_what_is_not_a_number_is_not_good() -> None:
    assert not Check(name="ratio", measured=math.nan, at_least=1.0).good
    assert not Check(name="ratio", measured=math.nan, at_most=1.0).good


def test_a_ratio_is_the_median_of_those_within_the_rounds() -> None:
    assert ratio([30.0, 8.0, 12.0], [10.0, 2.0, 6.0]) == 3  # the medians' would be 2


def test_a_ratio_needs_both_in_every_round() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize("bounds", [{}, {"least": 1.0, "most": 2.0}])
def test_a_check_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="ratio: give at_least or at_most"):
        Check(name="ratio", measured=1.0, at_least=bounds.get("least"), at_most=bounds.get("most"))


def test_one_broken_bound_makes_the_exit_code_1() -> None:
    good = Check(name="good", measured=1.0, at_most=2.0)
    broken = Check(name="broken", measured=3.0, at_most=2.0)
    assert conclude("some", [good]) == 0
    assert conclude("some", [good, broken]) == 1


def test_what_was_found_can_be_read_again(results: Path) -> None:
    found = [Check(name="start", measured=1.2, unit="s", at_most=1.5)]
    conclude("some", found, figures={"start_s": [1.1, 1.2, 1.3]})
    assert read(results / "some.json") == (found, {"start_s": [1.1, 1.2, 1.3]})
    [line] = json.loads((results / "some.json").read_text())["checks"]
    assert line["good"] is True


def test_a_short_run_does_not_replace_the_figures_of_a_whole_one(results: Path) -> None:
    conclude("some", [], figures={"whole": 1})
    conclude("some", [], figures={"short": 1}, quick=True)
    assert read(results / "some.json")[1] == {"whole": 1}
    assert read(results / "quick/some.json")[1] == {"short": 1}
