"""What is kept of a trace with an order is what a caller of another service would be told."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orderflow_server.telemetry.order_spans import current_traceparent


def told() -> str:
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


@pytest.mark.parametrize("flags", [TraceFlags.DEFAULT, TraceFlags.SAMPLED])
@pytest.mark.parametrize(("trace_id", "span_id"), [(1, 2), (2**128 - 1, 2**64 - 1)])
def test_it_is_the_span_under_way_and_whether_it_is_kept(
    trace_id: int, span_id: int, flags: int
) -> None:
    context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(flags))
    with trace.use_span(NonRecordingSpan(context)):
        assert current_traceparent() == told() != ""


def test_without_a_span_it_is_empty() -> None:
    assert current_traceparent() == told() == ""
