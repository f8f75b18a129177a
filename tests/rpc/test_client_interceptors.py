"""The client's interceptors, through the generated stubs, against a real server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rpc.byte_service import serving_bytes
from rpc.client_bench import ClientBench, connected
from rpc.scripted_service import HANG, Refusal, Served, serving

from orderflow.resilience.v1 import policy_pb2
from orderflow.v1 import order_service_pb2
from orderflow_client.client import ORDER_CONTRACT
from orderflow_client.contract import MethodContract, contracts
from orderflow_client.resilience import deadline
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import RetryScheduled

GET = "/orderflow.v1.OrderService/GetOrder"
REQUEST = order_service_pb2.GetOrderRequest(order_id="one")
RESERVE_S = 0.5
UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "down")


class Bench(ClientBench):
    """With the server that its channel leads to."""

    def __init__(self, served: Served, contract: Mapping[str, MethodContract]) -> None:
        super().__init__(served.target, contract, breaker=BreakerOptions(), reserve_s=RESERVE_S)
        self.service = served.orders
        self.stub = self.orders

    def seen_s(self, method: str = "GetOrder") -> list[float]:
        """What each attempt was given, as the server saw it."""
        return [attempt.time_remaining_s for attempt in self.service.attempts(method)]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
async def bench(served: Served) -> AsyncIterator[Bench]:
    bench = Bench(served, ORDER_CONTRACT)
    async with connected(bench.channel):
        yield bench


async def test_a_call_that_succeeds_is_one_attempt(bench: Bench) -> None:
    call = bench.stub.GetOrder(REQUEST)
    response = await call
    assert response.order.id == "one"
    assert await call.code() is grpc.StatusCode.OK
    assert await call.trailing_metadata() == grpc.aio.Metadata()
    assert call.done()
    (attempt,) = bench.service.received
    assert "grpc-previous-rpc-attempts" not in attempt.metadata
    assert bench.events == []


async def test_attempts_after_the_first_say_how_many_came_before(bench: Bench) -> None:
    bench.service.will("GetOrder", UNAVAILABLE, UNAVAILABLE)
    metadata = grpc.aio.Metadata(("x-mine", "kept"))
    await bench.stub.GetOrder(REQUEST, metadata=metadata)
    attempts = bench.service.received
    assert [each.metadata.get("grpc-previous-rpc-attempts") for each in attempts] == [
        None,
        "1",
        "2",
    ]
    assert all(each.metadata["x-mine"] == "kept" for each in attempts)
    assert all(each.request == REQUEST for each in attempts)
    assert metadata == grpc.aio.Metadata(("x-mine", "kept"))
    assert bench.time.slept == pytest.approx([0.01, 0.02])
    retries = [event for event in bench.events if isinstance(event, RetryScheduled)]
    assert [(event.name, event.attempt) for event in retries] == [(GET, 1), (GET, 2)]


async def test_when_all_attempts_fail_the_last_error_is_what_the_caller_gets(
    bench: Bench,
) -> None:
    refusals = [
        Refusal(grpc.StatusCode.UNAVAILABLE, f"number {number}", trailing={"x-n": str(number)})
        for number in range(1, 6)
    ]
    bench.service.will("GetOrder", *refusals)
    call = bench.stub.GetOrder(REQUEST)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "number 5"
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert await call.details() == "number 5"
    assert (await call.trailing_metadata())["x-n"] == "5"
    assert call.done()
    assert not call.cancelled()
    assert len(bench.service.received) == 5


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in grpc.StatusCode
        if code
        not in {
            grpc.StatusCode.OK,
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }
    ],
)
async def test_other_codes_are_not_retried(bench: Bench, code: grpc.StatusCode) -> None:
    bench.service.will("GetOrder", Refusal(code, "no"))
    call = bench.stub.GetOrder(REQUEST)
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    assert await call.code() is code
    assert len(bench.service.received) == 1
    assert bench.budget.tokens == 10


async def test_without_a_retry_policy_a_method_is_not_retried(served: Served) -> None:
    once = {GET: dataclasses.replace(ORDER_CONTRACT[GET], retry=None, hedging=None)}
    bench = Bench(served, once)
    bench.service.will("GetOrder", UNAVAILABLE)
    async with bench.channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await bench.stub.GetOrder(REQUEST)
    assert len(bench.service.received) == 1


async def test_what_is_not_idempotent_is_never_retried() -> None:
    """It says so in the contract, which refuses a retry policy for it."""
    async with serving_bytes() as (service, target):
        bare = contracts(without_idempotency())
        bench = ClientBench(target, bare)
        async with bench.channel:
            call: Any = bench.channel.unary_unary("/bytes.Service/UnaryUnary")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"fail")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert service.timeouts_s == [pytest.approx(5, abs=0.3)]


def without_idempotency() -> ServiceDescriptor:
    """A service whose one method has a timeout of 5 s, and no idempotency_level."""
    file = descriptor_pb2.FileDescriptorProto(name="b.proto", package="bytes", syntax="proto3")
    file.message_type.add(name="M")
    method = file.service.add(name="Service").method.add(name="UnaryUnary")
    method.input_type = method.output_type = ".bytes.M"
    method.options.Extensions[policy_pb2.policy].timeout.seconds = 5
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("bytes.Service")


async def test_the_budget_is_shared_by_the_methods_of_a_channel(bench: Bench) -> None:
    bench.service.will("GetOrder", *[UNAVAILABLE] * 5)
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.stub.GetOrder(REQUEST)
    assert bench.budget.tokens == 5
    bench.service.will("CancelOrder", UNAVAILABLE)
    with pytest.raises(grpc.aio.AioRpcError):
        await bench.stub.CancelOrder(order_service_pb2.CancelOrderRequest(order_id="one"))
    assert len(bench.service.attempts("CancelOrder")) == 1


async def test_unknown_methods_pass_through(bench: Bench) -> None:
    health = health_pb2_grpc.HealthStub(bench.channel)  # type: ignore[no-untyped-call]  # generated
    with deadline.within(Deadline.after(-1)):  # an ambient deadline would end it at once
        response = await health.Check(health_pb2.HealthCheckRequest())
    assert response.status == health_pb2.HealthCheckResponse.SERVING


class TestPushback:
    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    )
    async def test_is_the_delay(self, bench: Bench, code: grpc.StatusCode) -> None:
        bench.service.will("GetOrder", Refusal(code, trailing={"grpc-retry-pushback-ms": "123"}))
        await bench.stub.GetOrder(REQUEST)
        assert bench.time.slept == [0.123]

    async def test_as_retry_info_is_the_same(self, bench: Bench) -> None:
        delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))
        bench.service.will("GetOrder", Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, details=[delay]))
        await bench.stub.GetOrder(REQUEST)
        assert bench.time.slept == [0.25]

    @pytest.mark.parametrize("value", ["-1", "soon", "", "1.5"])
    async def test_that_is_negative_or_unreadable_stops(self, bench: Bench, value: str) -> None:
        bench.service.will(
            "GetOrder",
            Refusal(grpc.StatusCode.UNAVAILABLE, trailing={"grpc-retry-pushback-ms": value}),
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await bench.stub.GetOrder(REQUEST)
        assert len(bench.service.received) == 1
        assert bench.budget.tokens == 9


class TestDeadline:
    async def test_is_the_methods_own_when_the_caller_gives_none(self, bench: Bench) -> None:
        await bench.stub.GetOrder(REQUEST)
        assert bench.seen_s() == [pytest.approx(2, abs=0.3)]

    async def test_is_the_callers_otherwise(self, bench: Bench) -> None:
        await bench.stub.GetOrder(REQUEST, timeout=30)
        assert bench.seen_s() == [pytest.approx(30, abs=0.3)]

    async def test_leaves_a_reserve_of_an_ambient_one(self, bench: Bench) -> None:
        with deadline.within(Deadline.after(1.5, clock=bench.time.clock)):
            await bench.stub.GetOrder(REQUEST)
        assert bench.seen_s() == [pytest.approx(1, abs=0.3)]

    @pytest.mark.parametrize("budget_s", [0.2, 0.9, 1.1, 8.7, 61, 1234.5, 86_400])
    @pytest.mark.parametrize("ambient", [False, True])
    async def test_is_never_later_at_the_server_than_at_the_caller(
        self, bench: Bench, budget_s: float, ambient: bool
    ) -> None:
        bench.service.will("GetOrder", UNAVAILABLE, UNAVAILABLE)
        given = Deadline.after(budget_s + RESERVE_S, clock=bench.time.clock)
        with deadline.within(given if ambient else None):
            await bench.stub.GetOrder(REQUEST, timeout=9e5 if ambient else budget_s)
        assert bench.timeouts_s == pytest.approx([budget_s, budget_s - 0.01, budget_s - 0.03])
        # gRPC rounds what it sends up: here by 3 % at most, and by a millisecond.
        assert all(
            0 < seen_s <= sent_s * 1.04 + 0.001
            for seen_s, sent_s in zip(bench.seen_s(), bench.timeouts_s, strict=True)
        )

    async def test_spans_all_attempts_and_delays(self, bench: Bench) -> None:
        pushback = Refusal(grpc.StatusCode.UNAVAILABLE, trailing={"grpc-retry-pushback-ms": "4000"})
        bench.service.will("GetOrder", pushback, pushback, pushback)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.stub.GetOrder(REQUEST, timeout=10)
        # The third retry would begin after 12 of 10 seconds: the real error, and no waiting.
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert bench.seen_s() == [pytest.approx(each, abs=0.3) for each in (10, 6, 2)]
        assert bench.time.slept == [4, 4]

    @pytest.mark.parametrize("timeout_s", [0, -1])
    async def test_that_has_passed_sends_nothing(self, bench: Bench, timeout_s: float) -> None:
        call = bench.stub.GetOrder(REQUEST, timeout=timeout_s)
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert bench.service.received == []

    async def test_ends_an_attempt_under_way(self, served: Served) -> None:
        bench = Bench(served, ORDER_CONTRACT)
        bench.service.will("GetOrder", HANG)
        async with bench.channel:
            call = bench.stub.GetOrder(REQUEST, timeout=0.2)
            waiting = asyncio.ensure_future(call.code())
            await bench.service.hanging.wait()
            bench.time.now_s += 0.2
            assert await waiting is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(bench.service.received) == 1
        await bench.service.hung_up.wait()

    async def test_of_one_attempt_is_retried_while_the_calls_lasts(self, served: Served) -> None:
        policy = ORDER_CONTRACT[GET].retry
        assert policy is not None
        quick = dataclasses.replace(policy, attempt_timeout_s=0.2)
        bench = Bench(served, {GET: dataclasses.replace(ORDER_CONTRACT[GET], retry=quick)})
        bench.service.will("GetOrder", HANG)
        async with bench.channel:
            response = await bench.stub.GetOrder(REQUEST)
        assert response.order.id == "one"
        assert bench.seen_s() == [pytest.approx(0.2, abs=0.1)] * 2


class TestCancellation:
    async def test_ends_the_attempt_under_way(self, bench: Bench) -> None:
        bench.service.will("GetOrder", HANG)
        call = bench.stub.GetOrder(REQUEST)
        waiting = asyncio.ensure_future(_wait(call))
        await bench.service.hanging.wait()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await bench.service.hung_up.wait()
        assert len(bench.service.received) == 1

    async def test_of_the_callers_task_ends_it_too(self, bench: Bench) -> None:
        bench.service.will("GetOrder", HANG)
        task = asyncio.ensure_future(_wait(bench.stub.GetOrder(REQUEST)))
        await bench.service.hanging.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await bench.service.hung_up.wait()
        assert len(bench.service.received) == 1


class TestStream:
    REQUEST = order_service_pb2.WatchOrderRequest(order_id="one")

    async def test_has_the_methods_timeout(self, bench: Bench) -> None:
        assert [each async for each in bench.stub.WatchOrder(self.REQUEST)] == []
        assert bench.seen_s("WatchOrder") == [pytest.approx(3600, rel=0.01)]

    async def test_leaves_a_reserve_of_an_ambient_deadline(self, bench: Bench) -> None:
        with deadline.within(Deadline.after(1.5, clock=bench.time.clock)):
            call = bench.stub.WatchOrder(self.REQUEST, timeout=60)
        assert [each async for each in call] == []
        assert bench.seen_s("WatchOrder") == [pytest.approx(1, abs=0.3)]

    async def test_is_not_retried(self, bench: Bench) -> None:
        bench.service.will("WatchOrder", [order_service_pb2.WatchOrderResponse(), UNAVAILABLE])
        call = bench.stub.WatchOrder(self.REQUEST)
        messages = aiter(call)
        await anext(messages)
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(messages)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert len(bench.service.received) == 1

    async def test_that_is_too_late_sends_nothing(self, bench: Bench) -> None:
        call = bench.stub.WatchOrder(self.REQUEST, timeout=0)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert bench.service.received == []


async def _wait(
    call: grpc.aio.UnaryUnaryCall[
        order_service_pb2.GetOrderRequest, order_service_pb2.GetOrderResponse
    ],
) -> order_service_pb2.GetOrderResponse:
    return await call
