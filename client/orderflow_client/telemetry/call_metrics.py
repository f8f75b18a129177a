"""How many calls there were, how they ended and how long they took, under the usual names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

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


class CallMetrics:
    """`grpc_<side>_started_total`, `grpc_<side>_handled_total`, `grpc_<side>_handling_seconds`.

    Args:
        side: Whether the calls are made or answered.
        registry: Where the metrics are registered, once for each side.
    """

    def __init__(self, side: Literal["server", "client"], registry: CollectorRegistry) -> None:
        self._started = Counter(
            f"grpc_{side}_started", f"Calls begun on the {side}.", _LABELS, registry=registry
        )
        self._handled = Counter(
            f"grpc_{side}_handled",
            f"Calls ended on the {side}, by how they ended.",
            (*_LABELS, CODE_LABEL),
            registry=registry,
        )
        self._seconds = Histogram(
            f"grpc_{side}_handling_seconds",
            f"How long calls took on the {side}.",
            _LABELS,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )

    def of(self, *, grpc_type: str, service: str, method: str) -> MethodMetrics:
        """The metrics of one method, to be made once and kept: finding the labels takes time."""
        labels = (grpc_type, service, method)
        return MethodMetrics(
            self._started.labels(*labels),
            {code: self._handled.labels(*labels, code.name) for code in grpc.StatusCode},
            self._seconds.labels(*labels),
        )


class MethodMetrics:
    """Counts the calls of one method."""

    __slots__ = ("_handled", "_seconds", "_started")

    def __init__(
        self, started: Counter, handled: Mapping[grpc.StatusCode, Counter], seconds: Histogram
    ) -> None:
        self._started = started
        self._handled = handled
        self._seconds = seconds

    def started(self) -> None:
        self._started.inc()

    def handled(self, code: grpc.StatusCode, seconds: float, *, trace_id: str = "") -> None:
        """The call ended.

        Args:
            code: Its status.
            seconds: How long it took.
            trace_id: Of a trace that is kept, as an example of such a call. Empty: none.
        """
        self._handled[code].inc()
        self._seconds.observe(seconds, {TRACE_ID: trace_id} if trace_id else None)
