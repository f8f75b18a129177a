"""A recording as a picture: plots over one time axis, the faults shaded.

The text and the lines of the axes have colours that stand for CSS variables, so that the picture
is readable on a light page and on a dark one.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from orderflow_server.chaos.recording import OK, REFUSED, Recording, Sample, percentile

_VARIABLES = {"#010203": "var(--ink)", "#040506": "var(--grid)", "#070809": "var(--fault)"}
_INK, _GRID, _FAULT = _VARIABLES
_GOOD, _BAD, _REFUSED, _BLUE, _VIOLET = "#2a9d5c", "#d1495b", "#d98e04", "#3b7dd8", "#8e5bd0"
_SERVER_COLOURS = (_BLUE, _VIOLET, _GOOD)
_SILENCE_S = 2.0
_STATES = {"closed": 0, "half_open": 1, "open": 2}
_STYLE: Mapping[Any, Any] = {  # its keys are a Literal of some hundred names
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
}
_METADATA = {"Date": None, "Creator": None}


def svg(recording: Recording, *, name: str) -> str:
    """The picture as an SVG element, to be put into a page that defines --ink, --grid, --fault.

    Args:
        recording: What to show.
        name: Of the scenario; keeps the ids of several pictures in one page apart.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        plots: list[tuple[Callable[[Axes, Recording], None], float]] = [
            (_goodput, 2),
            (_latency, 2),
            (_breakers, 1.2),
            (_retries, 1.4),
            (_in_flight, 1.4),
        ]
        fired = _fired(recording)
        if fired:
            plots.append((_alerts, 0.3 + 0.3 * len(fired)))
        height = sum(height for _, height in plots)
        figure = Figure(figsize=(9.5, 0.6 + 1.3 * height), layout="constrained")
        all_axes = figure.subplots(
            len(plots), 1, sharex=True, height_ratios=[height for _, height in plots]
        )
        for axes, (plot, _) in zip(all_axes, plots, strict=True):
            plot(axes, recording)
            _shade(axes, recording)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
        _name_faults(all_axes[0], recording)
        all_axes[-1].set_xlabel("seconds since the load began")
        all_axes[-1].set_xlim(0, recording.ended_s)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=_METADATA)
    return _themed(out.getvalue())


def _themed(text: str) -> str:
    """Without the prologue of a file, as wide as its page, and with variables for colours."""
    text = text[text.index("<svg") :]
    text = re.sub(r'^(<svg [^>]*?)width="[^"]*"', r'\1width="100%"', text, count=1)
    text = re.sub(r'^(<svg [^>]*?)height="[^"]*"', r"\1", text, count=1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def _goodput(axes: Axes, recording: Recording) -> None:
    seconds = range(int(recording.ended_s) + 1)
    begun = _per_second([call.begun_s for call in recording.calls], len(seconds))
    axes.step(seconds, begun, where="post", color=_INK, linewidth=1, label="offered")
    for label, colour, wanted in (
        ("succeeded", _GOOD, lambda outcome: outcome == OK),
        ("refused", _REFUSED, lambda outcome: outcome == REFUSED),
        ("failed", _BAD, lambda outcome: outcome not in (OK, REFUSED)),
    ):
        ended = [call.ended_s for call in recording.calls if wanted(call.outcome)]
        if ended:
            counts = _per_second(ended, len(seconds))
            axes.step(seconds, counts, where="post", color=colour, label=label)
    axes.set_ylabel("calls per second")
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, recording: Recording) -> None:
    seconds = range(int(recording.ended_s) + 1)
    slots: list[list[float]] = [[] for _ in seconds]
    for call in recording.calls:
        if call.outcome == OK:
            slots[min(int(call.ended_s), len(slots) - 1)].append(call.took_s * 1000)
    for percent, colour in ((50, _GOOD), (95, _REFUSED), (99, _BAD)):
        # No line leads over a time without successes.
        values = [percentile(slot, percent) if slot else math.nan for slot in slots]
        middles = [at + 0.5 for at in seconds]
        axes.plot(middles, values, color=colour, marker=".", label=f"p{percent}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency, ms\n(successes, per second)")


def _breakers(axes: Axes, recording: Recording) -> None:
    for server in _servers(recording):
        for which, line in (("gateway", "-"), ("store", "--")):
            for label, samples in _stretches(recording, server, f"{which}, server {server}"):
                axes.step(
                    [sample.at_s for sample in samples],
                    [_STATES[sample.breaker(which)] for sample in samples],
                    where="post",
                    color=_colour(server),
                    linestyle=line,
                    label=label,
                )
    axes.set_yticks(list(_STATES.values()), ["closed", "half-open", "open"])
    axes.set_ylim(-0.3, 2.3)
    axes.set_ylabel("breakers")


def _retries(axes: Axes, recording: Recording) -> None:
    end = int(recording.ended_s) + 1
    for label, name, colour in (("attempts", "attempts", _BLUE), ("retries", "retries", _BAD)):
        counts = [recording.counted(name, at, at + 0.9999) for at in range(end)]
        axes.step(range(end), counts, where="post", color=colour, label=label)
    axes.set_ylabel("at the gateway,\nper second")
    axes.set_ylim(bottom=0)


def _in_flight(axes: Axes, recording: Recording) -> None:
    for server in _servers(recording):
        for name, line, field in (("in flight", "-", "in_flight"), ("limit", ":", "limit")):
            for label, samples in _stretches(recording, server, f"{name}, server {server}"):
                axes.step(
                    [sample.at_s for sample in samples],
                    [getattr(sample, field) for sample in samples],
                    where="post",
                    color=_colour(server),
                    linestyle=line,
                    label=label,
                )
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("calls at once")


def _alerts(axes: Axes, recording: Recording) -> None:
    """A bar for each time that an alert fired."""
    fired = _fired(recording)
    for row, alert in enumerate(fired):
        bars = [
            (begin_s, (recording.ended_s if end_s is None else end_s) - begin_s)
            for begin_s, end_s in recording.fired(alert)
        ]
        axes.broken_barh(bars, (row - 0.3, 0.6), color=_BAD)
    axes.set_yticks(range(len(fired)), fired)
    axes.set_ylim(len(fired) - 0.4, -0.6)  # the first above
    axes.set_axisbelow(True)
    axes.set_ylabel("alerts")


def _fired(recording: Recording) -> list[str]:
    """The alerts that did, in the order of their first times."""
    return list(dict.fromkeys(alert for seen in recording.alerts for alert in sorted(seen.firing)))


def _stretches(
    recording: Recording, server: int, label: str
) -> Iterator[tuple[str, Sequence[Sample]]]:
    """A server's samples without those times in which it did not answer; the first is labelled."""
    stretch: list[Sample] = []
    for sample in recording.samples:
        if sample.server != server:
            continue
        if stretch and sample.at_s - stretch[-1].at_s > _SILENCE_S:
            yield label, stretch
            label, stretch = "", []
        stretch.append(sample)
    yield label, stretch


def _shade(axes: Axes, recording: Recording) -> None:
    for fault in recording.faults:
        axes.axvspan(fault.begin_s, fault.end_s, color=_FAULT, alpha=0.15, linewidth=0)


def _name_faults(axes: Axes, recording: Recording) -> None:
    for fault in recording.faults:
        axes.annotate(
            fault.what,
            ((fault.begin_s + fault.end_s) / 2, 1.02),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
        )


def _servers(recording: Recording) -> list[int]:
    return sorted({sample.server for sample in recording.samples})


def _colour(server: int) -> str:
    return _SERVER_COLOURS[(server - 1) % len(_SERVER_COLOURS)]


def _per_second(times_s: Sequence[float], seconds: int) -> list[int]:
    counts = [0] * seconds
    for at_s in times_s:
        counts[min(int(at_s), seconds - 1)] += 1
    return counts
