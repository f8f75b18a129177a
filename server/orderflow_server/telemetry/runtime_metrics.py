"""How the process itself is doing: its event loop, its garbage collector, its memory and files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from orderflow_client.telemetry.call_metrics import SECONDS_BUCKETS
from orderflow_server.telemetry.gc_pauses import gc_pauses


@contextmanager
def runtime_metrics(
    registry: CollectorRegistry, lines_dropped: Callable[[], int] = int
) -> Iterator[Callable[[float], None]]:
    """Measures the process and the running event loop until the block ends.

    Yields what is to be told the loop's lag, in seconds; see `sample_loop_lag`.

    Args:
        registry: Where the metrics are registered.
        lines_dropped: Returns the number of log lines dropped so far.
    """
    lag = Histogram(
        "orderflow_event_loop_lag_seconds",
        "How late the event loop ran what was due.",
        buckets=SECONDS_BUCKETS,
        registry=registry,
    )
    loop = asyncio.get_running_loop()
    Gauge(
        "orderflow_asyncio_tasks", "Tasks of the event loop that have not ended.", registry=registry
    ).set_function(lambda: len(asyncio.all_tasks(loop)))
    registry.register(_LinesDropped(lines_dropped))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    with gc_pauses(registry):
        yield lag.observe


class _LinesDropped(Collector):
    """`orderflow_log_lines_dropped_total`, read at each scrape."""

    def __init__(self, lines_dropped: Callable[[], int]) -> None:
        self._lines_dropped = lines_dropped

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            "orderflow_log_lines_dropped",
            "Log lines dropped because standard output did not take them.",
            value=self._lines_dropped(),
        )
