from __future__ import annotations

import pytest
from msgspec import structs
from opentelemetry.trace import SpanKind

from fakes.events import FakePublisher
from fakes.orders import TRACEPARENT, new_order
from fakes.telemetry import Seen
from orderflow_server.events.ports import PublishFailed, event_id
from orderflow_server.orders.ports import OutboxEvent
from orderflow_server.telemetry.event_spans import PublishingInItsTrace

ORDER = new_order()
_, TRACE_ID, SPAN_ID, _ = TRACEPARENT.split("-")


def spans_of(seen: Seen, publisher: FakePublisher) -> PublishingInItsTrace:
    return PublishingInItsTrace(publisher, seen.tracer_provider.get_tracer("tests"))


async def test_a_publication_is_a_span_in_the_trace_of_its_order() -> None:
    seen, publisher = Seen(), FakePublisher()
    await spans_of(seen, publisher).publish(OutboxEvent(1, ORDER))
    assert publisher.arrived == [ORDER]
    [span] = seen.named("publish event")
    assert span.kind is SpanKind.PRODUCER
    assert f"{span.context.trace_id:032x}" == TRACE_ID
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN_ID
    assert span.attributes == {
        "orderflow.order_id": str(ORDER.id),
        "orderflow.order_version": 1,
    }


@pytest.mark.parametrize("traceparent", ["", f"00-{TRACE_ID}-{SPAN_ID}-00"])
async def test_of_a_trace_that_is_not_kept_there_is_no_span(traceparent: str) -> None:
    seen, publisher = Seen(), FakePublisher()
    order = structs.replace(ORDER, traceparent=traceparent)
    await spans_of(seen, publisher).publish(OutboxEvent(1, order))
    assert publisher.arrived == [order]
    assert seen.spans == ()


async def test_a_failure_is_the_spans_and_the_callers() -> None:
    seen, publisher = Seen(), FakePublisher()
    publisher.failing[event_id(ORDER)] = PublishFailed("no NATS")
    with pytest.raises(PublishFailed):
        await spans_of(seen, publisher).publish(OutboxEvent(1, ORDER))
    [span] = seen.named("publish event")
    assert span.status.description == "PublishFailed"


async def test_what_is_not_ready_says_so_through_it() -> None:
    publisher = FakePublisher()
    publisher.unready = [PublishFailed("no NATS")]
    with pytest.raises(PublishFailed):
        await spans_of(Seen(), publisher).prepare()
