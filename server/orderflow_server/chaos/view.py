"""What a person sees while a scenario runs: a line for each series, red while all is not well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orderflow_server.chaos.expectations import Mark
from orderflow_server.chaos.recording import OK, REFUSED, Recording, percentile
from orderflow_server.chaos.run import Outcome, Progress
from orderflow_server.chaos.scenario import Scenario

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 60
_MARKS: Mapping[Mark, str] = {
    "passed": "[green]passed[/]",
    "failed": "[red]failed[/]",
    "not checked": "[yellow]not checked[/]",
    "not all checked": "[yellow]not all checked[/]",
}


def view(scenario: Scenario, progress: Progress) -> RenderableType:
    """The run as it is now; its last minute."""
    recording = progress.recording
    now_s = progress.clock()
    seconds = range(max(0, int(now_s) - _COLUMNS), int(now_s))
    by_second = _calls_by_second(recording, seconds)
    lines: dict[str, Sequence[float]] = {
        "succeeded /s": [sum(outcome == OK for outcome, _ in calls) for calls in by_second],
        "refused /s": [sum(outcome == REFUSED for outcome, _ in calls) for calls in by_second],
        "failed /s": [
            sum(outcome not in (OK, REFUSED) for outcome, _ in calls) for calls in by_second
        ],
        "p99, ms": [
            percentile([took_s * 1000 for outcome, took_s in calls if outcome == OK], 99)
            for calls in by_second
        ],
        "retries /s": [recording.counted("retries", at, at + 0.9999) for at in seconds],
    }
    spans = [(fault.begin_s, fault.end_s) for fault in recording.faults]
    spans += [(begin_s, now_s) for begin_s in progress.broken.values()]
    table = Table(show_header=False, box=None)
    for name, values in lines.items():
        table.add_row(name, _bars(values, seconds, spans), f"{values[-1]:.0f}" if values else "")
    last = {sample.server: sample for sample in recording.samples}
    for server, sample in sorted(last.items()):
        table.add_row(
            f"server {server}",
            f"gateway {sample.gateway_breaker}, store {sample.store_breaker}, "
            f"{sample.in_flight:.0f} in flight of {sample.limit:.0f}",
        )
    if recording.alerts:
        table.add_row("alerts", ", ".join(sorted(recording.alerts[-1].firing)) or "none fires")
    broken = ", ".join(progress.broken)
    title = Text.assemble(
        (scenario.name, "bold"),
        f"  {progress.phase}, {now_s:.0f} s of {scenario.duration_s:.0f} s  ",
        (broken, "bold white on red") if broken else "",
    )
    return Group(title, table)


def print_outcome(console: Console, outcome: Outcome) -> None:
    mark = _MARKS[outcome.word]
    table = Table(
        title=f"{outcome.scenario.name}, seed {outcome.seed}: {mark}", caption=outcome.conditions
    )
    for column in ("what", "wanted", "seen", ""):
        table.add_column(column)
    for verdict in outcome.verdicts:
        table.add_row(
            verdict.what,
            verdict.wanted,
            verdict.seen,
            _MARKS[verdict.word],
        )
    console.print(table)


def _calls_by_second(recording: Recording, seconds: range) -> list[list[tuple[str, float]]]:
    """Outcome and duration of the calls that ended in each second."""
    slots: list[list[tuple[str, float]]] = [[] for _ in seconds]
    for call in reversed(recording.calls):
        at = int(call.ended_s) - seconds.start
        if at < 0:
            break  # They are in the order of their ends.
        if at < len(slots):
            slots[at].append((call.outcome, call.took_s))
    return slots


def _bars(values: Sequence[float], seconds: range, spans: Sequence[tuple[float, float]]) -> Text:
    """A bar for each second; red where it touches one of the spans."""
    most = max(values, default=0.0)
    text = Text()
    for at, value in zip(seconds, values, strict=True):
        broken = any(begin_s <= at + 1 and at < end_s for begin_s, end_s in spans)
        height = round(value / most * (len(_BARS) - 1)) if most else 0
        text.append(_BARS[height], style="red" if broken else "green")
    return text
