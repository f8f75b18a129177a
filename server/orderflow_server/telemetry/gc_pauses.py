"""How long the garbage collector stops the process."""

from __future__ import annotations

import gc
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import Literal

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

PAUSE_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, float("inf")),
)
GENERATIONS = 3


class GcPauses(Collector):
    """`orderflow_gc_pause_seconds`, told by `gc.callbacks`.

    It counts by itself. The library's histograms have locks that cannot be taken twice, and a
    collection may begin while this very thread holds one of them: it would wait for itself.

    Args:
        clock: What the pauses are measured with, seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began_s = clock()
        self._counts = [[0] * len(PAUSE_BUCKETS) for _ in range(GENERATIONS)]
        self._sums_s = [0.0] * GENERATIONS

    def __call__(self, phase: Literal["start", "stop"], info: Mapping[str, int]) -> None:
        """What the garbage collector calls, before and after."""
        if phase == "start":
            self._began_s = self._clock()
            return
        pause_s = self._clock() - self._began_s
        generation = info["generation"]
        self._counts[generation][bisect_left(PAUSE_BUCKETS, pause_s)] += 1
        self._sums_s[generation] += pause_s

    def collect(self) -> Iterable[Metric]:
        pauses = HistogramMetricFamily(
            "orderflow_gc_pause_seconds",
            "How long the garbage collector stopped the process, by generation.",
            labels=["generation"],
        )
        for generation, counts in enumerate(self._counts):
            buckets = zip(map(floatToGoString, PAUSE_BUCKETS), accumulate(counts), strict=True)
            pauses.add_metric([str(generation)], list(buckets), self._sums_s[generation])
        return [pauses]


@contextmanager
def gc_pauses(registry: CollectorRegistry) -> Iterator[None]:
    """Measures the pauses until the block ends."""
    pauses = GcPauses()
    registry.register(pauses)
    gc.callbacks.append(pauses)
    try:
        yield
    finally:
        gc.callbacks.remove(pauses)
