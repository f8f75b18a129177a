"""The stack of docker-compose.yml without docker: real programs, the same files, one machine.

Starts what is present, places orders through Envoy, looks for their traces, metrics, log lines and
events, says what it found, and ends everything that it started. Exits with 1 when something is not
as it should be. What needs a program that is not here is not looked for, and that is said. With
--stay it goes on until Ctrl-C.

Linux only: each service gets an address of its own in 127.0.0.0/8.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from undocked.compose import read_compose
from undocked.findings import Finding, find_all
from undocked.programs import ROOT
from undocked.running import DoesNotRun, Stack, running

HURRIED = {"SAMPLING_DECISION_WAIT": "2s"}
"""Otherwise the collector decides after 20 s about a trace."""
PAGES = {
    "envoy": ":8080/v1/orders",
    "jaeger": ":16686/",
    "prometheus": ":9090/",
    "orders-1": ":9464/metrics",
}


def main(
    stay: Annotated[bool, typer.Option("--stay", help="Leave it running until Ctrl-C.")] = False,
) -> None:
    """Run the stack without docker, and see whether it does what it should."""
    try:
        code = asyncio.run(_main(Console(), stay=stay))
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = 130
    raise typer.Exit(code)


async def _main(console: Console, *, stay: bool) -> int:
    # As Ctrl-C does: it all ends in order.
    this = asyncio.current_task()
    if this is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with tempfile.TemporaryDirectory(prefix="orderflow-stack-") as scratch:
        try:
            async with (
                running(
                    read_compose(ROOT / "docker-compose.yml"),
                    Path(scratch),
                    # So that two of them do not meet.
                    network=f"127.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250}.",
                    hurried=HURRIED,
                    tell=lambda line: console.print(f"[dim]{line}", highlight=False),
                ) as stack,
                aiohttp.ClientSession() as http,
            ):
                findings = await find_all(stack, http, lambda line: console.print(f"[dim]{line}"))
                console.print(_table(findings))
                if stay:
                    await _stay(console, stack)
        except DoesNotRun as error:
            console.print(str(error), style="red", markup=False)
            return 1
    return 1 if any(finding.well is False for finding in findings) else 0


async def _stay(console: Console, stack: Stack) -> None:
    for service, page in PAGES.items():
        if service in stack.addresses:
            console.print(f"{service:>12}  http://{stack.addresses[service]}{page}")
    console.print("Ctrl-C ends it.")
    await asyncio.Event().wait()


def _table(findings: list[Finding]) -> Table:
    table = Table(title="What was found", show_header=False, title_justify="left")
    for finding in findings:
        colour = {True: "green", False: "red", None: "yellow"}[finding.well]
        seen = finding.seen if finding.well is not None else f"not looked for: {finding.seen}"
        table.add_row(finding.what, f"[{colour}]{seen}")
    return table


if __name__ == "__main__":
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(main)
    command()
