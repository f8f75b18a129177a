"""The pictures of what the benchmarks found, from the JSON that they wrote: SVG, and PNG.

python bench/pictures.py bench/results
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parent.parent))

from bench.checks import RESULTS, Check, ratio, read

OURS, THEIRS, NOBODYS, BROKEN = "#1f6fb2", "#c96f2e", "#9aa3ab", "#b3261e"
LABELS = {
    "orderflow, PostgreSQL": ("Orderflow\nPostgreSQL", OURS),
    "orderflow, SQLite": ("Orderflow\nSQLite", OURS),
    "conventional": ("FastAPI, SQLAlchemy,\nhttpx, PostgreSQL", THEIRS),
    "bare": ("bare grpc.aio,\nno work", NOBODYS),
    "opentelemetry": ("grpc.aio with\nOpenTelemetry, no work", NOBODYS),
}
DURABLE = ("orderflow, PostgreSQL", "orderflow, SQLite", "conventional")
CHEAP_TO_DEAR = (
    "bare",
    "opentelemetry",
    "orderflow, PostgreSQL",
    "orderflow, SQLite",
    "conventional",
)
_STYLE: Any = {  # the keys are a list of literals to mypy
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "orderflow",  # equal figures are equal files
    "savefig.facecolor": "white",
}


def draw(results: Path) -> list[Path]:
    """Draws what there is; the files that it made, the SVGs."""
    found = {path.stem: read(path) for path in sorted(results.glob("*.json")) if _is_one(path)}
    figures = {name: each for name, (_, each) in found.items()}
    made = []
    with mpl.rc_context(_STYLE):
        if "compare" in figures:
            made.append(_save(orders(figures["compare"]), results / "orders"))
            made.append(_save(cpu(figures["compare"]), results / "cpu"))
        if "client" in figures:
            made.append(_save(client(figures["client"]), results / "client"))
        if "resident_mb" in figures.get("starting", {}):
            made.append(_save(memory(figures["starting"]["resident_mb"]), results / "memory"))
        checks = [check for checks, _ in found.values() for check in checks]
        if checks:
            made.append(_save(bounds(checks), results / "bounds"))
    return made


def orders(compared: dict[str, Any]) -> Figure:
    """Orders a second, and how long each took."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    rates, latencies = figure.subplots(1, 2)
    names = [LABELS[name][0] for name in DURABLE]
    samples = [compared[name]["calls_per_s"] for name in DURABLE]
    _bars(rates, names, samples, [LABELS[name][1] for name in DURABLE], form="{:,.0f}")
    rates.set_title("Orders, durable and paid, per second")
    rates.set_ylabel("orders/s (median, least and most of the rounds)")
    width = 0.25
    for number, (percent, shade) in enumerate((("p50", 0.45), ("p95", 0.7), ("p99", 1.0))):
        where = [at + (number - 1) * width for at in range(len(DURABLE))]
        values = [compared[name]["latency_ms"][percent] for name in DURABLE]
        bars = latencies.bar(
            where, values, width * 0.9, color=[LABELS[name][1] for name in DURABLE], alpha=shade
        )
        latencies.bar_label(bars, [f"{percent}\n{value:,.0f}" for value in values], fontsize=8)
    latencies.set_xticks(range(len(DURABLE)), names)
    latencies.set_title("Latency of an order at 64 callers")
    latencies.set_ylabel("ms")
    latencies.margins(y=0.15)
    return figure


def cpu(compared: dict[str, Any]) -> Figure:
    """The server's CPU for a CreateOrder."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots()
    medians = {name: statistics.median(compared[name]["cpu_us"]) for name in CHEAP_TO_DEAR}
    names = [LABELS[name][0] for name in medians]
    bars = axes.barh(names, list(medians.values()), color=[LABELS[name][1] for name in medians])
    of_bare = [
        ratio(compared[name]["cpu_us"], compared["bare"]["cpu_us"]) for name in CHEAP_TO_DEAR
    ]
    labels = zip(medians.values(), of_bare, strict=True)
    axes.bar_label(bars, [f" {each:,.0f} us = {times:.1f} x bare" for each, times in labels])
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.set_title("Server CPU of one CreateOrder, all threads")
    axes.set_xlabel("us (median of the rounds)")
    return figure


def client(compared: dict[str, Any]) -> Figure:
    """What OrderClient costs its caller."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = [f"{name}\n{who}" for name in compared for who in ("stub", "OrderClient")]
    samples = [each[key] for each in compared.values() for key in ("stub_us", "client_us")]
    _bars(axes, names, samples, [NOBODYS, OURS] * len(compared), form="{:.0f}")
    axes.set_title("Client CPU of one call")
    axes.set_ylabel("us (median, least and most of the rounds)")
    return figure


def memory(resident_mb: Sequence[float]) -> Figure:
    """What is resident while calls go by, beside the twentieth that is allowed."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    calls = [number * 10_000 for number in range(len(resident_mb))]
    axes.plot(calls, resident_mb, color=OURS, marker="o", markersize=3, label="resident")
    axes.axhline(resident_mb[0] * 1.05, color=BROKEN, linestyle="--", label="5 % more")
    axes.set_ylim(0, max(resident_mb) * 1.2)
    axes.set_title("Memory of the server")
    axes.set_xlabel("calls since the first 20 000")
    axes.set_ylabel("MB")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right")
    return figure


def bounds(checks: Sequence[Check]) -> Figure:
    """How much of each bound is used up: left of the line is good."""
    figure = Figure(figsize=(10, 0.9 + 0.36 * len(checks)), layout="constrained")
    axes = figure.subplots()
    used = [min(_used(check), _WIDEST) for check in checks]
    bars = axes.barh(
        range(len(checks)), used, color=[OURS if check.good else BROKEN for check in checks]
    )
    labels = [
        f"{f'{check.measured:,.4g} {check.unit}'.rstrip()} ({check.wanted})" for check in checks
    ]
    over_the_line = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.bar_label(bars, labels, padding=3, fontsize=8, bbox=over_the_line)
    axes.margins(y=0.02)
    axes.set_yticks(range(len(checks)), [check.name for check in checks])
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(0, max(1.0, *used) * 1.45)
    axes.invert_yaxis()
    axes.set_title("Bounds: measured, and wanted")
    axes.set_xlabel("share of the bound that is used up; 1 is the bound")
    return figure


_WIDEST = 3.0
"""Of a bar, so that one that is far off leaves room for the others."""


def _used(check: Check) -> float:
    if check.at_least is not None:
        return check.at_least / check.measured if check.measured else _WIDEST
    if check.at_most:
        return check.measured / check.at_most
    return 0.0 if check.good else _WIDEST


def _bars(
    axes: Axes,
    names: Sequence[str],
    samples: Sequence[Sequence[float]],
    colors: Sequence[str],
    *,
    form: str,
) -> None:
    medians = [statistics.median(each) for each in samples]
    least = [median - min(each) for median, each in zip(medians, samples, strict=True)]
    most = [max(each) - median for median, each in zip(medians, samples, strict=True)]
    bars = axes.bar(names, medians, yerr=[least, most], color=colors, ecolor="#444444", capsize=4)
    axes.bar_label(bars, [form.format(each) for each in medians], padding=3)
    axes.margins(y=0.12)


def _is_one(path: Path) -> bool:
    """Of a benchmark, not of the whole run."""
    return path.stem != "results"


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path.with_suffix(".png"), dpi=120)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path.with_suffix(".svg")


if __name__ == "__main__":
    for made in draw(Path(sys.argv[1]) if sys.argv[1:] else RESULTS):
        print(made)
