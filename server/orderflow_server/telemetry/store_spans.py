"""Spans of what the store does, for the calls whose traces are kept.

A call has a span for each thing that it asks of the store. The transaction that did it served
others too: its span is in the trace of the first of them, and linked to them all.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind

from orderflow_server.storage.engine import BatchEnded
from orderflow_server.telemetry.spans import failed, span

T = TypeVar("T")

BATCH_SIZE = "orderflow.batch.commands"
WAITING = "orderflow.batch.waiting"


def kept_span() -> SpanContext | None:
    """The span under way, if it is kept; the `origin` of a command."""
    current = trace.get_current_span()
    return current.get_span_context() if current.is_recording() else None


class StoreSpans:
    """Makes a span of each call to the store.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    async def around(self, name: str, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of the operation, within the span `store.<name>`."""
        if not trace.get_current_span().is_recording():
            return await operation()
        with span(self._tracer, f"store.{name}", kind=SpanKind.CLIENT):
            return await operation()

    def batch_ended(self, event: BatchEnded) -> None:
        """The listener: makes the span `store.batch`, with the times that the event has."""
        if not event.origins:
            return
        began_ns = time.time_ns() - round((time.monotonic() - event.began_s) * 1e9)
        batch = self._tracer.start_span(
            "store.batch",
            context=trace.set_span_in_context(NonRecordingSpan(event.origins[0])),
            links=[Link(origin) for origin in event.origins],
            attributes={BATCH_SIZE: event.size, WAITING: event.waiting},
            start_time=began_ns,
        )
        if event.error is not None:
            failed(batch, event.error)
        batch.end(began_ns + round(event.duration_s * 1e9))
