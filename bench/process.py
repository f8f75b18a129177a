"""Processes that are measured: what they have used of the CPU and of memory, by Linux's /proc."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def cpu_s(pid: int) -> float:
    """What the threads of a process have used so far, to the nanosecond; of ended ones nothing."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def family_cpu_s(pid: int) -> float:
    """What a process and its children have used, ended ones included, to the hundredth second."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(entry.name) == pid:
                total += sum(map(int, fields[11:15]))
            elif int(fields[1]) == pid:
                total += sum(map(int, fields[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """How much of its memory is in the machine's, what it shares with others included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    """Those of all its threads."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


@dataclass(frozen=True)
class Subject:
    """A process that is measured, and where it answers."""

    pid: int
    address: str


@contextmanager
def script(path: Path, *arguments: str, log: Path) -> Iterator[Subject]:
    """A server that is a script of ours and prints its port when it serves; killed at the end.

    Raises:
        RuntimeError: It ends before that; the log says why.
    """
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{path.name} does not serve: {log.read_text()[-2000:]}")
        yield Subject(process.pid, f"127.0.0.1:{int(line)}")
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def gateway(port: int, log: Path) -> AsyncIterator[Subject]:
    """The payment simulator; it is up when something that waits for it is."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "orderflow_server", "gateway", "--port", str(port), "--log-format", "json"),
            stdout=output,
            stderr=output,
            env=without_telemetry(),
        )
    try:
        yield Subject(process.pid, f"127.0.0.1:{port}")
    finally:
        process.kill()
        await process.wait()


def without_telemetry() -> Mapping[str, str]:
    """The environment, but for what would send spans elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
