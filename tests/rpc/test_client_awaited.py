"""Channels whose calls are only awaited: the same policies, in the caller's own task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from rpc.client_bench import connected
from rpc.scripted_service import HANG, Refusal, Served, reason, serving

from fakes.telemetry import Seen
from orderflow.v1 import order_pb2, order_service_pb2, order_service_pb2_grpc
from orderflow_client.channel import open_channel
from orderflow_client.client import ORDER_CONTRACT
from orderflow_client.resilience import deadline
from orderflow_client.resilience.events import PolicyEvent, RetryScheduled
from orderflow_client.telemetry import ClientTelemetry
from orderflow_client.telemetry.call_record import call_under_way
from orderflow_client.telemetry.conventions import RETRY_SCHEDULED

CALL = "orderflow.v1.OrderService/CreateOrder"
CREATE = order_service_pb2.CreateOrderRequest(request_id="r", customer_id="ada")
WATCH = order_service_pb2.WatchOrderRequest(order_id="one")
UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "down")


class Bench:
    def __init__(self, served: Served) -> None:
        self.service = served.orders
        self.seen = Seen()
        self.events: list[PolicyEvent] = []
        self.channel = open_channel(
            served.target,
            contract=ORDER_CONTRACT,
            token="t",
            listeners=[self.events.append],
            telemetry=ClientTelemetry(
                tracer_provider=self.seen.tracer_provider, registry=self.seen.registry
            ),
            only_awaited=True,
        )
        self.stub: order_service_pb2_grpc.OrderServiceAsyncStub = (
            order_service_pb2_grpc.OrderServiceStub(self.channel)
        )

    @property
    def spans(self) -> list[str]:
        return [span.name.rpartition("/")[2] for span in self.seen.spans]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with serving() as served:
        bench = Bench(served)
        async with connected(bench.channel):
            yield bench


async def test_the_policies_are_around_it(bench: Bench) -> None:
    bench.service.will("CreateOrder", UNAVAILABLE)
    mine = grpc.aio.Metadata(("x-mine", "kept"))

    response = await bench.stub.CreateOrder(CREATE, metadata=mine)

    assert response.order.customer_id == "ada"
    first, second = (attempt.metadata for attempt in bench.service.received)
    assert "grpc-previous-rpc-attempts" not in first
    assert second["grpc-previous-rpc-attempts"] == "1"
    assert (second["x-mine"], second["authorization"]) == ("kept", "Bearer t")
    assert mine == grpc.aio.Metadata(("x-mine", "kept"))
    assert [type(event) for event in bench.events] == [RetryScheduled]


async def test_its_telemetry_is_that_of_any_call(bench: Bench) -> None:
    bench.service.will("CreateOrder", UNAVAILABLE)
    await bench.stub.CreateOrder(CREATE)
    assert bench.spans == ["CreateOrder attempt"] * 2 + ["CreateOrder"]
    assert [event.name for event in bench.seen.spans[-1].events] == [RETRY_SCHEDULED]


async def test_nothing_of_it_is_left_in_the_caller_s_task(bench: Bench) -> None:
    await bench.stub.CreateOrder(CREATE)
    assert call_under_way.get() is None
    assert deadline.current() is None


async def test_nor_of_one_that_fails(bench: Bench) -> None:
    bench.service.will("CreateOrder", Refusal(grpc.StatusCode.NOT_FOUND))
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.stub.CreateOrder(CREATE)
    assert call_under_way.get() is None
    assert deadline.current() is None


async def test_calls_at_once_do_not_see_each_other(bench: Bench) -> None:
    bench.service.will("CreateOrder", UNAVAILABLE, UNAVAILABLE)
    await asyncio.gather(*(bench.stub.CreateOrder(CREATE) for _ in range(4)))
    retries = [len(span.events) for span in bench.seen.named(CALL)]
    assert len(retries) == 4
    assert sum(retries) == 2


async def test_what_the_last_error_says_reaches_the_caller(bench: Bench) -> None:
    code = grpc.StatusCode.ALREADY_EXISTS
    bench.service.will("CreateOrder", Refusal(code, details=[reason("REQUEST_ID_REUSED")]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.CreateOrder(CREATE)
    assert caught.value.code() is code


async def test_a_timeout_ends_it(bench: Bench) -> None:
    bench.service.will("CreateOrder", HANG)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.stub.CreateOrder(CREATE, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await bench.service.hung_up.wait()


async def test_the_caller_s_cancellation_ends_it_at_the_server_too(bench: Bench) -> None:
    bench.service.will("CreateOrder", HANG)
    caller = asyncio.ensure_future(bench.stub.CreateOrder(CREATE))
    await bench.service.hanging.wait()

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    await bench.service.hung_up.wait()
    assert len(bench.service.received) == 1
    assert bench.spans == ["CreateOrder attempt", "CreateOrder"]


async def test_streams_are_as_ever(bench: Bench) -> None:
    paid = order_service_pb2.WatchOrderResponse(order=order_pb2.Order(id="one"))
    bench.service.will("WatchOrder", [paid])
    call = bench.stub.WatchOrder(WATCH)
    assert [message.order.id async for message in call] == ["one"]
    assert await call.code() is grpc.StatusCode.OK
    assert bench.service.received[0].metadata["authorization"] == "Bearer t"


async def test_over_several_connections_a_call_outside_the_contract_is_made_once() -> None:
    async with serving() as served:
        async with open_channel(
            served.target,
            contract={},
            connections=2,
            telemetry=ClientTelemetry(),
            only_awaited=True,
        ) as channel:
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            response = await stub.CreateOrder(CREATE)

        assert response.order.customer_id == "ada"
        assert len(served.orders.received) == 1
