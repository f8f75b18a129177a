"""Grafana's dashboards: writes deploy/grafana/dashboards from tools/boards.

Usage: python tools/dashboards.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from boards.orders import ORDERS
from boards.panels import to_json
from boards.resilience import RESILIENCE
from boards.runtime import RUNTIME
from boards.service import SERVICE

DASHBOARDS = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"


def main(arguments: Sequence[str]) -> None:
    """Writes what is stale; with --check fails instead."""
    if arguments not in ([], ["--check"]):
        raise SystemExit(__doc__)
    made = {
        DASHBOARDS / f"{spec.name}.json": to_json(spec)
        for spec in (SERVICE, RESILIENCE, ORDERS, RUNTIME)
    }
    stale = [path for path, text in made.items() if not path.exists() or path.read_text() != text]
    if arguments and stale:
        names = "\n  ".join(path.name for path in stale)
        raise SystemExit(f"dashboards are stale, run `make dashboards`:\n  {names}")
    for path in stale:
        path.write_text(made[path])


if __name__ == "__main__":
    main(sys.argv[1:])
