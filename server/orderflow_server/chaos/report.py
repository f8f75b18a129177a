"""The outcomes as one HTML page, which needs nothing but itself."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from orderflow_server.chaos.expectations import Mark
from orderflow_server.chaos.hurry import SPEED
from orderflow_server.chaos.plots import svg
from orderflow_server.chaos.run import Outcome, summary

_STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --grid: #c9d0d8; --fault: #d1495b;
        --page: #ffffff; --card: #f5f7f9; --good: #1d7f49; --bad: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e8ee; --grid: #48525e; --fault: #ff8a95; --page: #14181d; --card: #1d232b;
          --good: #5fd08f; --bad: #ff8a80; --open: #e6b35a; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
       max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
section { background: var(--card); border-radius: .6rem; padding: 1rem 1.5rem; margin: 2rem 0; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; border-bottom: 1px solid var(--grid); }
a { color: inherit; }
.passed { color: var(--good); } .failed { color: var(--bad); } .unchecked { color: var(--open); }
.passed, .failed, .unchecked { font-weight: 600; }
svg { height: auto; } svg text { font-family: system-ui, sans-serif; }
"""

_CLASSES: Mapping[Mark, str] = {
    "passed": "passed",
    "failed": "failed",
    "not checked": "unchecked",
    "not all checked": "unchecked",
}

_SECTION = """
<section id="{name}">
<h2>{name} {mark}</h2>
<p>{shows}</p>
<p>{how}</p>
<table><tr><th>what</th><th>wanted</th><th>seen</th><th></th></tr>
{verdicts}
</table>
{picture}
</section>
"""


def write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes it, and the directories that it is to be in.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(outcomes), encoding="utf-8")


def _page(outcomes: Sequence[Outcome]) -> str:
    total = summary(outcomes)
    links = "".join(
        f'<tr><td><a href="#{outcome.scenario.name}">{outcome.scenario.name}</a></td>'
        f"<td>{_marked(outcome.word)}</td></tr>"
        for outcome in outcomes
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Orderflow, chaos: {total}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>Orderflow, chaos</h1><p>{total}. The shaded times are those of a fault. "
        f"Where alerts are looked at, they are those of deploy/prometheus {SPEED} times faster: a "
        f"minute in a rule is {60 / SPEED:g} s here.</p><table>{links}</table>\n"
        f"{''.join(map(_section, outcomes))}</body></html>\n"
    )


def _section(outcome: Outcome) -> str:
    scenario = outcome.scenario
    servers = "1 server" if scenario.servers == 1 else f"{scenario.servers} servers"
    without = f", <b>without its {outcome.without}</b>" if outcome.without else ""
    verdicts = "\n".join(
        f"<tr><td>{html.escape(verdict.what)}</td><td>{html.escape(verdict.wanted)}</td>"
        f"<td>{html.escape(verdict.seen)}</td><td>{_marked(verdict.word)}</td></tr>"
        for verdict in outcome.verdicts
    )
    return _SECTION.format(
        name=scenario.name,
        mark=_marked(outcome.word),
        shows=html.escape(scenario.shows),
        how=f"{scenario.rate:g} orders a second for {scenario.duration_s:g} s, {servers} over "
        f"PostgreSQL, seed {outcome.seed}{without}. {outcome.conditions}",
        verdicts=verdicts,
        picture=svg(outcome.recording, name=scenario.name),
    )


def _marked(word: Mark) -> str:
    return f'<span class="{_CLASSES[word]}">{word}</span>'
