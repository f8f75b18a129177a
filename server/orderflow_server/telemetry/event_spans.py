"""The publication of an event belongs to the trace in which its order was placed."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from orderflow_server.events.ports import EventPublisher
from orderflow_server.orders.ports import OutboxEvent
from orderflow_server.telemetry.order_spans import ORDER_ID
from orderflow_server.telemetry.spans import span

ORDER_VERSION = "orderflow.order_version"

_PROPAGATOR = TraceContextTextMapPropagator()


class PublishingInItsTrace:
    """An `EventPublisher` that makes a span of each publication, if its order's trace is kept.

    Args:
        publisher: Publishes.
        tracer: Makes the spans.
    """

    def __init__(self, publisher: EventPublisher, tracer: trace.Tracer) -> None:
        self._publisher = publisher
        self._tracer = tracer

    async def prepare(self) -> None:
        await self._publisher.prepare()

    async def publish(self, event: OutboxEvent) -> None:
        order = event.order
        placed_in = _PROPAGATOR.extract({"traceparent": order.traceparent})
        if not trace.get_current_span(placed_in).get_span_context().trace_flags.sampled:
            await self._publisher.publish(event)
            return
        attributes = {ORDER_ID: str(order.id), ORDER_VERSION: order.version}
        with span(
            self._tracer,
            "publish event",
            context=placed_in,
            kind=SpanKind.PRODUCER,
            attributes=attributes,
        ):
            await self._publisher.publish(event)
