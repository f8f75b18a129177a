"""How many calls there were, how they ended and how long they took, under the usual names.

Counted in plain numbers, which a registry collects when it is asked, and not in prometheus_client's
own metrics, for two reasons. Those lock: a garbage collection that begins while one is locked,
and ends a forgotten stream whose end is counted, waits for itself for ever. And three of them on
every call take four times as long as these.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal

import grpc
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from orderflow_client.telemetry.conventions import (
    CODE_LABEL,
    METHOD_LABEL,
    SERVICE_LABEL,
    TRACE_ID,
    TYPE_LABEL,
)

SECONDS_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

_LABELS = (TYPE_LABEL, SERVICE_LABEL, METHOD_LABEL)
_CODES: Sequence[grpc.StatusCode] = tuple(grpc.StatusCode)
_INDEX = {code: index for index, code in enumerate(_CODES)}
_OK = grpc.StatusCode.OK
_BOUNDS = (*map(floatToGoString, SECONDS_BUCKETS), "+Inf")


class CallMetrics(Collector):
    """`grpc_<side>_started_total`, `grpc_<side>_handled_total`, `grpc_<side>_handling_seconds`.

    Args:
        side: Whether the calls are made or answered.
        registry: Where the metrics are registered, once for each side.

    Raises:
        ValueError: The registry has them already.
    """

    def __init__(self, side: Literal["server", "client"], registry: CollectorRegistry) -> None:
        self._side = side
        self._methods: dict[tuple[str, str, str], MethodMetrics] = {}
        registry.register(self)

    def of(self, *, grpc_type: str, service: str, method: str) -> MethodMetrics:
        """The metrics of one method, to be kept."""
        return self._methods.setdefault((grpc_type, service, method), MethodMetrics())

    def collect(self) -> Iterable[Metric]:
        side = self._side
        started = CounterMetricFamily(
            f"grpc_{side}_started", f"Calls begun on the {side}.", labels=_LABELS
        )
        handled = CounterMetricFamily(
            f"grpc_{side}_handled",
            f"Calls ended on the {side}, by how they ended.",
            labels=(*_LABELS, CODE_LABEL),
        )
        seconds = HistogramMetricFamily(
            f"grpc_{side}_handling_seconds",
            f"How long calls took on the {side}.",
            labels=_LABELS,
        )
        for labels, method in self._methods.items():
            method.collect(labels, started, handled, seconds)
        return started, handled, seconds


class MethodMetrics:
    """Counts the calls of one method. For one thread at a time."""

    __slots__ = ("_buckets", "_codes", "_exemplars", "_started", "_sum_s")

    def __init__(self) -> None:
        self._started = 0
        self._codes = [0] * len(_CODES)
        self._buckets = [0] * len(_BOUNDS)
        self._exemplars: list[Exemplar | None] = [None] * len(_BOUNDS)
        self._sum_s = 0.0

    def started(self) -> None:
        self._started += 1

    def handled(self, code: grpc.StatusCode, seconds: float, *, trace_id: str = "") -> None:
        """The call ended.

        Args:
            code: Its status.
            seconds: How long it took.
            trace_id: Of a trace that is kept, as an example of such a call. Empty: none.
        """
        self._codes[0 if code is _OK else _INDEX[code]] += 1
        bucket = bisect_left(SECONDS_BUCKETS, seconds)
        self._buckets[bucket] += 1
        self._sum_s += seconds
        if trace_id:
            self._exemplars[bucket] = Exemplar({TRACE_ID: trace_id}, seconds, time.time())

    def collect(
        self,
        labels: Sequence[str],
        started: CounterMetricFamily,
        handled: CounterMetricFamily,
        seconds: HistogramMetricFamily,
    ) -> None:
        """Adds what was counted to the families."""
        started.add_metric(labels, self._started)
        for code, count in zip(_CODES, self._codes, strict=True):
            handled.add_metric((*labels, code.name), count)
        buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        total = 0.0
        for bound, count, exemplar in zip(_BOUNDS, self._buckets, self._exemplars, strict=True):
            total += count
            buckets.append((bound, total) if exemplar is None else (bound, total, exemplar))
        seconds.add_metric(labels, buckets, self._sum_s)
