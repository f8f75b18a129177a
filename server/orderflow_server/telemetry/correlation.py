"""The names by which a log line finds its call and its trace."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from orderflow_client.telemetry.conventions import SPAN_ID, TRACE_ID

call_names: ContextVar[Mapping[str, str] | None] = ContextVar("orderflow_call_names", default=None)
"""Fields of every line of the call under way. (structlog's own context variables do the same, in
five times the time: one for each field, found by looking at all that there are.)"""


def add_names(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor: the call's fields, and within a span its `trace_id` and `span_id`.

    Also of a trace that is not kept: it may be kept elsewhere, and its lines belong together.
    """
    names = call_names.get()
    if names is not None:
        event = {**names, **event}
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event[TRACE_ID] = trace.format_trace_id(span.trace_id)
        event[SPAN_ID] = trace.format_span_id(span.span_id)
    return event
