"""The ids of the span that a log line belongs to, by which the line finds its trace."""

from __future__ import annotations

from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from orderflow_client.telemetry.conventions import SPAN_ID, TRACE_ID


def add_span_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor: `trace_id` (32 hex digits) and `span_id` (16), within a span.

    Also of a trace that is not kept: it may be kept elsewhere, and its lines belong together.
    """
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event[TRACE_ID] = trace.format_trace_id(span.trace_id)
        event[SPAN_ID] = trace.format_span_id(span.span_id)
    return event
