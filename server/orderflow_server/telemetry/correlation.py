"""The names by which a log line finds its call and its trace."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.trace import SpanContext
from structlog.typing import EventDict, WrappedLogger

from orderflow_client.telemetry.conventions import SPAN_ID, TRACE_ID

call_names: ContextVar[Mapping[str, str] | None] = ContextVar("orderflow_call_names", default=None)
"""Fields of every line of the call under way. (structlog's own context variables do the same, in
five times the time: one for each field, found by looking at all that there are.)"""

SPAN = "_span"


def current_span() -> SpanContext:
    """What a line remembers of the span that it belongs to, as `SPAN`, until `add_ids`."""
    return trace.get_current_span().get_span_context()


def add_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor: the `trace_id` and `span_id` of the span that was noted.

    Also of a trace that is not kept: it may be kept elsewhere, and its lines belong together.
    """
    span = event.pop(SPAN)
    if span.is_valid:
        # As trace.format_trace_id does, in half the time.
        event[TRACE_ID] = span.trace_id.to_bytes(16, "big").hex()
        event[SPAN_ID] = span.span_id.to_bytes(8, "big").hex()
    return event


def add_names(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The processor: the call's fields, and within a span its `trace_id` and `span_id`."""
    return add_ids(logger, method, {**(call_names.get() or {}), SPAN: current_span(), **event})
