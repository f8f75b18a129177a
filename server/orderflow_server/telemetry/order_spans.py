"""What is done for an order later on belongs to the trace in which it was placed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orderflow_server.orders.ports import LeasedOrder
from orderflow_server.telemetry.spans import span

ORDER_ID = "orderflow.order_id"
WORKER_ATTEMPT = "orderflow.worker.attempt"

_PROPAGATOR = TraceContextTextMapPropagator()
_TRACEPARENT = "traceparent"

Settle = Callable[[LeasedOrder], Awaitable[None]]


def current_traceparent() -> str:
    """The span under way, as W3C Trace Context writes it; empty when there is none."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    # As the propagator would, which does it in a dictionary, for every order.
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def settling_in_its_trace(settle: Settle, tracer: trace.Tracer) -> Settle:
    """Settles an order within a span in the trace that it was placed in."""

    async def settle_in_its_trace(leased: LeasedOrder) -> None:
        placed_in = _PROPAGATOR.extract({_TRACEPARENT: leased.order.traceparent})
        attributes = {ORDER_ID: str(leased.order.id), WORKER_ATTEMPT: leased.attempts}
        with span(tracer, "settle order", context=placed_in, attributes=attributes):
            await settle(leased)

    return settle_in_its_trace
