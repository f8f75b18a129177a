"""What is done for an order later on is in the trace that it was placed in."""

from __future__ import annotations

from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from fakes.telemetry import Seen
from harness import NO_FAULTS, OUTAGE, create_request, running_service, until
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb

CREATE = "orderflow.v1.OrderService/CreateOrder"
GET = "orderflow.v1.OrderService/GetOrder"
CHARGE = "orderflow.payments.v1.PaymentGateway/Charge"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_payment_that_the_worker_retries_belongs_to_its_orders_trace(
    tmp_path: Path,
) -> None:
    seen = Seen()
    async with running_service(tmp_path, tracer_provider=seen.tracer_provider) as service:
        service.set_faults(OUTAGE)
        order = (await service.stub.CreateOrder(create_request())).order
        assert order.state == order_pb2.ORDER_STATE_PENDING_PAYMENT
        await until(lambda: seen.named(CREATE))
    # Another process, later on.
    later = Seen()
    async with running_service(tmp_path, tracer_provider=later.tracer_provider) as service:
        service.set_faults(NO_FAULTS)
        await service.client.wait_until_settled(order.id, timeout_s=20.0)
        await until(lambda: later.named("settle order"))
        assert service.charges(order.id) == 1

    [placed] = seen.named(CREATE)
    settled = later.named("settle order")[-1]
    assert trace_of(settled) == trace_of(placed)
    assert settled.parent is not None
    assert settled.parent.span_id == placed.context.span_id
    charges = [span for span in later.named(CHARGE) if span.parent is not None]
    assert trace_of(charges[-1]) == trace_of(placed)
    assert charges[-1].parent is not None
    assert charges[-1].parent.span_id == settled.context.span_id


async def test_a_call_goes_on_in_the_trace_of_its_caller(tmp_path: Path) -> None:
    seen = Seen()
    async with running_service(tmp_path, tracer_provider=seen.tracer_provider) as service:
        metadata = (("traceparent", TRACEPARENT), ("tracestate", "vendor=value"))
        await service.stub.CreateOrder(create_request(), metadata=metadata)
        await until(lambda: seen.named(CREATE))
    [span] = seen.named(CREATE)
    assert f"{trace_of(span):032x}" == TRACEPARENT.split("-")[1]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == TRACEPARENT.split("-")[2]
    assert span.context.trace_state.get("vendor") == "value"


async def test_a_batch_is_linked_to_all_the_calls_that_it_served(tmp_path: Path) -> None:
    seen = Seen()
    async with running_service(tmp_path, tracer_provider=seen.tracer_provider) as service:
        calls = [service.stub.CreateOrder(create_request()) for _ in range(20)]
        for call in calls:
            await call
        await until(lambda: len(seen.named(CREATE)) == len(calls))
    written = {
        span.context.span_id for name in ("store.place", "store.save") for span in seen.named(name)
    }
    batches = seen.named("store.batch")
    linked = [link.context.span_id for batch in batches for link in batch.links]
    assert len(linked) == len(set(linked)) == len(written) == 2 * len(calls)
    assert set(linked) == written
    assert len(batches) < len(linked)
    for batch in batches:
        # In the trace of the first that it served.
        assert trace_of(batch) == batch.links[0].context.trace_id
        assert batch.attributes is not None
        commands = batch.attributes["orderflow.batch.commands"]
        # The worker's own commands are in no trace.
        assert isinstance(commands, int)
        assert commands >= len(batch.links)


async def test_what_the_store_refuses_is_told_by_its_kind_alone(tmp_path: Path) -> None:
    seen = Seen()
    async with running_service(tmp_path, tracer_provider=seen.tracer_provider) as service:
        missing = pb.GetOrderRequest(order_id="0198a3a0-0000-7000-8000-000000000000")
        call = service.stub.GetOrder(missing)
        assert (await call.code()).name == "NOT_FOUND"
        await until(lambda: seen.named(GET))
    [span] = seen.named("store.get")
    assert span.attributes is not None
    assert span.attributes["error.type"] == "OrderNotFound"
    assert span.status.description == "OrderNotFound"
    assert not span.events


def trace_of(span: ReadableSpan) -> int:
    trace_id: int = span.context.trace_id
    return trace_id
