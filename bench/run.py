"""Runs the benchmarks one after the other, and gathers what they found: `make bench`.

Every one is a script of its own that can be run alone, and prints its own tables. At the end come
one table of all bounds, `results.json` with them, the machine and the versions, and the pictures.
All of it is in `bench/results`, or `bench/results/quick`.

    python bench/run.py                    everything (about 20 minutes)
    python bench/run.py compare client     these only
    python bench/run.py --quick            ratios with wide bounds, under a minute: for CI

Exits with 1 when a bound is broken or a benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path.append(str(Path(__file__).parent.parent))

from bench import pictures
from bench.checks import QUICK_RESULTS, RESULTS, Check, read, table

HERE = Path(__file__).parent
ALL = (
    *("compare", "overhead", "client", "starting", "workers"),
    *("store", "postgres", "overload", "overload-cpu", "hedging", "growth"),
)
QUICK = ("client", "compare")
PACKAGES = (
    *("grpcio", "protobuf", "asyncpg", "protovalidate", "opentelemetry-sdk"),
    *("fastapi", "uvicorn", "sqlalchemy", "httpx"),
)


def run(name: str, *, quick: bool) -> list[Check]:
    """Runs one; what it found, or that it failed."""
    written = (QUICK_RESULTS if quick else RESULTS) / f"{name}.json"
    written.unlink(missing_ok=True)
    Console().rule(name)
    script, _, variant = name.partition("-")
    options = [f"--{variant}"] * bool(variant) + ["--quick"] * quick
    code = subprocess.call(
        [sys.executable, str(HERE / f"{script}.py"), *options],
        # They start programs while gRPC's threads run, which it would mention each time.
        env=os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "false"},
    )
    if not written.exists():
        return [Check(name=f"{name}: exit code", measured=code, at_most=0)]
    checks, _ = read(written)
    if code != 0 and all(check.good for check in checks):
        checks.append(Check(name=f"{name}: exit code", measured=code, at_most=0))
    return checks


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    described = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in described if line.startswith("model name")]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "kernel": platform.release(),
        "load_average_before": os.getloadavg(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="ratios with wide bounds")
    given = parser.parse_args()
    if unknown := set(given.names) - set(QUICK if given.quick else ALL):
        parser.error(f"no such benchmark here: {', '.join(sorted(unknown))}")
    began_s = time.monotonic()
    found: dict[str, Any] = {"began": datetime.now(UTC).isoformat(), "machine": machine()}
    checks: list[Check] = []
    for name in given.names or (QUICK if given.quick else ALL):
        checks += run(name, quick=given.quick)
    results = QUICK_RESULTS if given.quick else RESULTS
    results.mkdir(parents=True, exist_ok=True)
    found["took_s"] = round(time.monotonic() - began_s)
    found["checks"] = [{**asdict(check), "good": check.good} for check in checks]
    (results / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    drawn = pictures.draw(results)

    console = Console()
    console.rule("all")
    console.print(table(f"{len(checks)} bounds, {found['took_s']} s", checks))
    for path in drawn:
        console.print(path.relative_to(HERE.parent))
    return 0 if all(check.good for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
