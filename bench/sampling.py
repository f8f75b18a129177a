"""Where the CPU of a CreateOrder goes: a profile of the service by sampling.

The service runs as a process over PostgreSQL or SQLite, under a timer of its CPU time. When that
rings, the event loop's thread says where it is, and what it has used since is put to that place.
The CPU of other threads (gRPC's own, SQLite's writer) is one line. A sampler costs little, and does
not make small functions look dear, as a tracing profiler does. Time in C is that of the Python
function which called it, or, at its end, of the next one; so the garbage collector's is that of
`GcPauses`.

    python bench/sampling.py               by package and by function
    python bench/sampling.py --sqlite --seconds 30
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import collections
import json
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from types import FrameType

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.extend(str(Path(__file__).parent.parent / name) for name in ("", "tests"))

from bench.load import closed_loop, create_orders
from bench.process import gateway
from fakes.postgres import postgres_process
from orderflow_client import OrderClient
from processes import free_port, until_serving

HERE = Path(__file__).parent
INTERVAL_S = 0.003
CALLERS = 64
WARM_UP_S = 3.0
MOST = 30
OTHERS = "other threads"
LIBRARY = "the standard library"
OURS = ("orderflow_server/", "orderflow_client/")
_ROOTS = ("/site-packages/", f"/python{sys.version_info.major}.{sys.version_info.minor}/")


class Sampler:
    """Counts CPU seconds by where the main thread is."""

    def __init__(self) -> None:
        self._own_s: dict[str, float] = collections.defaultdict(float)
        self._below_s: dict[str, float] = collections.defaultdict(float)
        self._thread_s = time.thread_time()
        self._process_s = time.process_time()

    def start(self, *_: object) -> None:
        """Begins anew."""
        self._own_s.clear()
        self._below_s.clear()
        self._thread_s, self._process_s = time.thread_time(), time.process_time()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def write(self, path: Path) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        path.write_text(json.dumps({"own_s": self._own_s, "below_s": self._below_s}))

    def _sample(self, _signal: int, frame: FrameType | None) -> None:
        thread_s, process_s = time.thread_time(), time.process_time()
        used_s = thread_s - self._thread_s
        self._own_s[OTHERS] += process_s - self._process_s - used_s
        self._thread_s, self._process_s = thread_s, process_s
        if frame is not None:
            self._own_s[_place(frame)] += used_s
        seen = set()
        while frame is not None:
            seen.add(_place(frame))
            frame = frame.f_back
        for place in seen:
            self._below_s[place] += used_s


def _place(frame: FrameType) -> str:
    """A function, by the end of its file's path."""
    path = frame.f_code.co_filename
    for root in _ROOTS:
        if root in path:
            path = ("" if root == _ROOTS[0] else "python/") + path.rpartition(root)[2]
            break
    for start in OURS:
        if f"/{start}" in path:
            path = start + path.rpartition(start)[2]
    return f"{path} {frame.f_code.co_qualname}"


def serve_sampled(written: Path, arguments: list[str]) -> None:
    """Serves as the command does; SIGUSR1 begins the counting, and the end writes it."""
    sampler = Sampler()
    signal.signal(signal.SIGUSR1, sampler.start)
    atexit.register(sampler.write, written)
    from orderflow_server.cli import app

    app(["serve", *arguments])


async def profile(directory: Path, database: str, seconds: float) -> tuple[Path, int]:
    """What the service wrote, and how many orders that was about."""
    written = directory / "samples.json"
    port, address = free_port(), f"127.0.0.1:{free_port()}"
    with (directory / "log").open("ab") as log:
        async with gateway(port, directory / "gateway.log"):
            server = await asyncio.create_subprocess_exec(
                sys.executable,
                *(__file__, "--serve", str(written), "--address", address),
                *("--ops-address", "127.0.0.1:0", "--database", database),
                *("--gateway", f"127.0.0.1:{port}", "--log-format", "json"),
                stdout=log,
                stderr=log,
            )
            try:
                async with OrderClient(address) as client:
                    await until_serving(client)
                async with create_orders(address) as call:
                    await closed_loop(call, callers=CALLERS, seconds=WARM_UP_S)
                    server.send_signal(signal.SIGUSR1)
                    sample = await closed_loop(call, callers=CALLERS, seconds=seconds)
            finally:
                server.terminate()
                await server.wait()
    return written, sample.calls


def show(samples: dict[str, dict[str, float]], orders: int) -> None:
    own_s, below_s = samples["own_s"], samples["below_s"]
    total_s = sum(own_s.values())
    by_package: dict[str, float] = collections.defaultdict(float)
    for place, used_s in own_s.items():
        by_package[_package(place)] += used_s
    console = Console()
    tables = {
        "By package": _largest(by_package),
        "By function, what it calls aside": _largest(own_s),
        "By function of Orderflow, with what it calls": _largest(
            {place: used_s for place, used_s in below_s.items() if place.startswith(OURS)}
        ),
    }
    for title, lines in tables.items():
        table = Table(title=f"{title}: CPU of an order")
        for column in ("", "us", "share"):
            table.add_column(column, justify="right" if column else "left")
        for place, used_s in lines:
            table.add_row(place, f"{used_s / orders * 1e6:.0f}", f"{used_s / total_s:.1%}")
        console.print(table)
    console.print(f"{orders} orders, {total_s / orders * 1e6:.0f} us of CPU each")


def _largest(counted: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(counted.items(), key=itemgetter(1), reverse=True)[:MOST]


def _package(place: str) -> str:
    """Of ours the part, of others the distribution."""
    parts = place.partition(" ")[0].split("/")
    if place == OTHERS:
        return OTHERS
    if place.startswith(OURS):
        return "/".join(parts[:2])
    # What has no file is made by dataclasses and the like.
    return LIBRARY if parts[0] == "python" or len(parts) == 1 else parts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Profile CreateOrder.")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sqlite", action="store_true", help="over SQLite, not PostgreSQL")
    given = parser.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-"))
        database = str(Path(directory, "orders.db"))
        if not given.sqlite:
            database = stack.enter_context(postgres_process({}, within=HERE)).url
        written, orders = uvloop.run(profile(Path(directory), database, given.seconds))
        show(json.loads(written.read_text()), orders)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve_sampled(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
