"""What a benchmark found, against what is wanted: a table for people, JSON for the rest.

Each benchmark ends with `conclude`. What it writes to `bench/results` is what `bench/run.py`
collects and `bench/pictures.py` draws.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
QUICK_RESULTS = RESULTS / "quick"
"""Short runs do not replace the figures of whole ones."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure and its bound.

    Attributes:
        name: What was measured, with what.
        unit: Of the figure and the bound. Empty: a ratio or a count.
        at_least: The bound of what should be large, else None.
        at_most: The bound of what should be small, else None.

    Raises:
        ValueError: Not exactly one bound.
    """

    name: str
    measured: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"{self.name}: give at_least or at_most")

    @property
    def good(self) -> bool:
        # Written so that what is not a number is not good.
        if self.at_least is not None:
            return self.measured >= self.at_least
        return self.at_most is not None and self.measured <= self.at_most

    @property
    def wanted(self) -> str:
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:,g} {self.unit}".rstrip()


def ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within each round, in which both met the same machine."""
    return statistics.median(a / b for a, b in zip(some, others, strict=True))


def conclude(
    benchmark: str,
    checks: Sequence[Check],
    *,
    figures: Mapping[str, Any] | None = None,
    quick: bool = False,
) -> int:
    """Prints the checks, and writes them as JSON.

    Args:
        benchmark: The name of its script, without its ending, and its variant.
        checks: What decides.
        figures: What else was measured, for the pictures.
        quick: Of a short run.

    Returns:
        The exit code: 1 when a bound is broken.
    """
    directory = QUICK_RESULTS if quick else RESULTS
    directory.mkdir(parents=True, exist_ok=True)
    found = {"checks": [_as_json(check) for check in checks], "figures": figures or {}}
    path = directory / f"{benchmark}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    Console().print(table(benchmark, checks))
    return 0 if all(check.good for check in checks) else 1


def read(path: Path) -> tuple[list[Check], dict[str, Any]]:
    """The checks and the figures that `conclude` wrote."""
    found = json.loads(path.read_text())
    checks = [
        Check(**{name: value for name, value in each.items() if name != "good"})
        for each in found["checks"]
    ]
    return checks, found["figures"]


def table(title: str, checks: Sequence[Check]) -> Table:
    made = Table(title=title)
    for column, side in (("", "left"), ("measured", "right"), ("wanted", "left"), ("", "left")):
        made.add_column(column, justify="right" if side == "right" else "left")
    for check in checks:
        measured = f"{check.measured:,.{0 if check.measured >= 100 else 2}f} {check.unit}".rstrip()
        made.add_row(check.name, measured, check.wanted, "[green]yes" if check.good else "[red]no")
    return made


def _as_json(check: Check) -> dict[str, Any]:
    return {**asdict(check), "good": check.good}
