"""`orderflow-server chaos`: runs scenarios, shows them, and writes the report."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from orderflow_server.chaos.report import write_report
from orderflow_server.chaos.run import Outcome, Progress, run, summary
from orderflow_server.chaos.scenario import Scenario
from orderflow_server.chaos.view import print_outcome, view


def run_scenarios(
    scenarios: Sequence[Scenario], *, seed: int, report: Path, without: str = ""
) -> int:
    """Runs them one after the other, and returns the exit code: 0 when none failed.

    Args:
        scenarios: Which.
        seed: Of each.
        report: Where the HTML page goes.
        without: A policy to take from the servers, as in `victim`. Empty: none.

    Raises:
        CannotStart: Some part is missing or does not start.
        OSError: The report cannot be written.
    """
    console = Console()
    outcomes = []
    for scenario in scenarios:
        outcome = asyncio.run(_shown(console, scenario, seed=seed, without=without))
        print_outcome(console, outcome)
        outcomes.append(outcome)
    write_report(report, outcomes)
    console.print(f"{summary(outcomes)}; see {report}")
    return 1 if any(outcome.word == "failed" for outcome in outcomes) else 0


async def _shown(console: Console, scenario: Scenario, *, seed: int, without: str) -> Outcome:
    console.print(f"[bold]{scenario.name}[/]: {scenario.shows}")
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(progress: Progress) -> None:
            if console.is_terminal:
                live.update(view(scenario, progress), refresh=True)

        return await run(scenario, seed=seed, without=without, look_on=show)
