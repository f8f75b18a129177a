"""What was measured is drawn, with its figures readable in the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.patches import Rectangle

from bench.checks import Check
from bench.pictures import CHEAP_TO_DEAR, bounds, draw

SIDE = {
    "calls_per_s": [90.0, 100.0, 110.0],
    "cpu_us": [400.0],
    "latency_ms": {"p50": 1.0, "p95": 2.0, "p99": 3.0},
}


def test_a_picture_says_what_was_measured(tmp_path: Path) -> None:
    found = {"checks": [], "figures": dict.fromkeys(CHEAP_TO_DEAR, SIDE)}
    (tmp_path / "compare.json").write_text(json.dumps(found))
    assert [path.name for path in draw(tmp_path)] == ["orders.svg", "cpu.svg"]
    orders, cpu = ((tmp_path / name).read_text() for name in ("orders.svg", "cpu.svg"))
    assert "Orders, durable and paid, per second" in orders
    assert "400 us = 1.0 x bare" in cpu
    assert (tmp_path / "orders.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("check", "used"),
    [
        (Check(name="", measured=16.0, at_least=8.0), 0.5),
        (Check(name="", measured=4.0, at_least=8.0), 2.0),
        (Check(name="", measured=0.65, at_most=1.3), 0.5),
        (Check(name="", measured=2.6, at_most=1.3), 2.0),
        (Check(name="", measured=0.0, at_most=0.0), 0.0),
        (Check(name="", measured=1.0, at_most=0.0), 3.0),
    ],
)
def test_a_bar_past_the_line_is_a_broken_bound(check: Check, used: float) -> None:
    [axes] = bounds([check]).axes
    [bar] = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert bar.get_width() == pytest.approx(used)
    assert check.good == (used <= 1.0)
