"""`make stack`: what docker-compose.yml describes, with the real programs and without docker."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Iterator
from pathlib import Path

import pytest
from deploy.outside import program
from deploy.queries import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that PostgreSQL may enter as well, which does not run as root."""
    with tempfile.TemporaryDirectory(prefix="orderflow-test-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path
        assert list(path.iterdir()) == [], "something was left behind"


async def start(scratch: Path, *arguments: str) -> Process:
    program("otelcol", "tools/collector.sh builds it where Go is present")
    program("jaeger", "tools/jaeger.sh builds it where Go is present")
    program("prometheus", "tools/prometheus.sh takes it from Debian's package")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "tools/stack.py", *arguments),
        cwd=ROOT,
        env={"TMPDIR": str(scratch), "COLUMNS": "200", "PATH": "/usr/local/bin:/usr/bin:/bin"},
        stdout=PIPE,
        stderr=STDOUT,
    )


def left_behind(scratch: Path) -> list[str]:
    """The processes that know of the directory in which everything was."""
    commands = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            commands.append((process / "environ").read_bytes() + (process / "cmdline").read_bytes())
        except OSError:  # it has ended, or is not ours
            continue
    return [repr(command) for command in commands if f"{scratch}/".encode() in command]


async def test_orders_leave_their_traces_metrics_and_events(scratch: Path) -> None:
    process = await start(scratch)
    said, _ = await process.communicate()
    output = said.decode()
    print(f"\n{output}")  # noqa: T201  for who runs it with -s
    assert process.returncode == 0, output
    # What it looked for and where is in the table.
    assert re.search(r"\d+ of 120 are in Jaeger", output)
    assert re.search(r"CreateOrder in Prometheus: \d+ by \S+ \+ \d+ by", output)
    assert re.search(r"\d+ of our traces are examples", output)
    assert re.search(r"\d+ in NATS JetStream", output)
    # Loki is there only where somebody had the time to build it.
    assert re.search(r"\d+ of trace \w+ in Loki|there is no loki", output)
    assert left_behind(scratch) == []


async def test_told_to_stop_it_ends_all_that_it_has_started(scratch: Path) -> None:
    process = await start(scratch, "--stay")
    assert process.stdout is not None
    async for line in process.stdout:
        if b"gateway runs" in line:
            break
    assert left_behind(scratch) != []
    process.send_signal(signal.SIGTERM)
    said, _ = await process.communicate()
    assert process.returncode == 130, said.decode()
    assert left_behind(scratch) == []
