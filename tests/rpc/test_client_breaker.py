"""The client's breaker, over gRPC. What it decides, and when, is tested in tests/resilience."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from rpc.client_bench import ClientBench, connected
from rpc.scripted_service import HANG, Refusal, Served, reason, serving

from orderflow.v1 import order_service_pb2
from orderflow_client import errors
from orderflow_client.channel import open_channel
from orderflow_client.client import ORDER_CONTRACT, OrderClient
from orderflow_client.contract import contracts
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.events import BreakerChanged, PolicyEvent
from orderflow_client.status import details_of

SERVICE = "orderflow.v1.OrderService"
GET = f"/{SERVICE}/GetOrder"
REQUEST = order_service_pb2.GetOrderRequest(order_id="one")
DOWN = Refusal(grpc.StatusCode.UNAVAILABLE, "down")
FAILURES = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN", "DATA_LOSS"}
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
async def bench(served: Served) -> AsyncIterator[ClientBench]:
    bench = ClientBench(served.target, ORDER_CONTRACT)
    async with connected(bench.channel):
        yield bench


def about(time_left_s: float) -> object:
    """Once it was open, the delay of a retry passed that it then refused."""
    return pytest.approx(time_left_s - 0.01)


async def failure(bench: ClientBench) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.orders.GetOrder(REQUEST)
    return caught.value


async def test_what_opens_it_is_not_hidden_and_not_retried(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", *[DOWN] * 9)
    error = await failure(bench)
    assert error.details() == "down"
    assert bench.breaker_states == ["open"]
    assert len(served.orders.received) == 1


async def test_a_refusal_says_why_and_when_to_come_back(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", DOWN)
    await failure(bench)
    bench.time.now_s += 1.5
    error = await failure(bench)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    details = details_of(error)
    assert details.reason == "BREAKER_OPEN"
    assert details.metadata == {"breaker": f"{served.target}/{SERVICE}"}
    assert details.retry_delay_s == about(3.5)
    assert len(served.orders.received) == 1


async def test_a_refusal_is_like_a_servers_answer(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", DOWN)
    await failure(bench)
    error = await failure(bench)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads errors as well
    assert status is not None
    assert [detail.TypeName() for detail in status.details] == [
        "google.rpc.ErrorInfo",
        "google.rpc.RetryInfo",
    ]
    typed = errors.from_rpc_error(error)
    assert isinstance(typed, errors.Unavailable)
    assert (typed.reason, typed.retry_delay_s) == ("BREAKER_OPEN", about(5))


async def test_a_refusal_costs_no_retries(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", DOWN)
    await failure(bench)
    tokens = bench.budget.tokens
    for _ in range(100):
        await failure(bench)
    assert bench.budget.tokens == tokens
    assert len(served.orders.received) == 1


@pytest.mark.parametrize("code", CODES)
async def test_only_these_codes_are_failures(
    served: Served, bench: ClientBench, code: grpc.StatusCode
) -> None:
    served.orders.will("GetOrder", Refusal(code, "no"))
    await failure(bench)
    assert bench.breaker_states == (["open"] if code.name in FAILURES else [])


async def test_a_callers_cancellation_is_neither(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", HANG)
    call = bench.orders.GetOrder(REQUEST)
    await served.orders.hanging.wait()
    call.cancel()
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert bench.breaker_states == []
    assert await served.orders.hung_up.wait()


async def test_an_attempt_that_takes_too_long_is_a_failure(served: Served) -> None:
    policy = ORDER_CONTRACT[GET].retry
    assert policy is not None
    quick = dataclasses.replace(policy, attempt_timeout_s=0.1)
    contract = {GET: dataclasses.replace(ORDER_CONTRACT[GET], retry=quick, hedging=None)}
    bench = ClientBench(served.target, contract)
    served.orders.will("GetOrder", HANG)
    async with bench.channel:
        error = await failure(bench)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert bench.breaker_states == ["open"]


async def test_half_open_exactly_one_of_many_calls_is_the_probe(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", DOWN)
    await failure(bench)
    served.orders.received.clear()
    bench.time.now_s += 5
    results = await asyncio.gather(
        *(_wait(bench) for _ in range(200)),
        return_exceptions=True,
    )
    refusals = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
    assert len(refusals) == 199
    assert {details_of(each).reason for each in refusals} == {"BREAKER_OPEN"}
    assert len(served.orders.received) == 1
    assert bench.breaker_states == ["open", "half_open", "closed"]
    await bench.orders.GetOrder(REQUEST)


async def test_a_probe_that_fails_opens_it_for_longer(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", DOWN, DOWN)
    await failure(bench)
    bench.time.now_s += 5
    assert (await failure(bench)).details() == "down"
    assert details_of(await failure(bench)).retry_delay_s == about(10)
    assert bench.breaker_states == ["open", "half_open", "open"]


def resting(for_s: int) -> Refusal:
    """How a server answers whose own breaker is open."""
    told = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=for_s))
    return Refusal(grpc.StatusCode.UNAVAILABLE, "resting", (reason("BREAKER_OPEN"), told))


async def test_a_probe_that_meets_the_servers_own_breaker_waits_as_it_was_told(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", DOWN, resting(7), resting(8))
    await failure(bench)
    bench.time.now_s += 5
    for told_s in (7, 8):
        assert (await failure(bench)).details() == "resting"
        assert details_of(await failure(bench)).retry_delay_s == pytest.approx(told_s)
        bench.time.now_s += told_s
    await bench.orders.GetOrder(REQUEST)
    assert bench.breaker_states[-1] == "closed"


async def test_a_stream_that_meets_the_servers_own_breaker_waits_as_it_was_told(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", DOWN)
    served.orders.will("WatchOrder", [resting(3)])
    await failure(bench)
    bench.time.now_s += 5
    with pytest.raises(grpc.aio.AioRpcError, match="resting"):
        await anext(aiter(bench.orders.WatchOrder(order_service_pb2.WatchOrderRequest())))
    assert details_of(await failure(bench)).retry_delay_s == pytest.approx(3)


async def test_the_methods_of_a_service_share_it_and_another_service_does_not(
    served: Served,
) -> None:
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    bench = ClientBench(served.target, {**ORDER_CONTRACT, **contracts(health)})
    served.orders.will("GetOrder", DOWN)
    async with bench.channel:
        await failure(bench)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.orders.ListOrders(order_service_pb2.ListOrdersRequest())
        assert details_of(caught.value).reason == "BREAKER_OPEN"
        stub = health_pb2_grpc.HealthStub(bench.channel)  # type: ignore[no-untyped-call]  # generated
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_every_channel_has_one(served: Served) -> None:
    """With the defaults: 20 attempts, half of them failed."""
    events: list[PolicyEvent] = []
    served.orders.will("GetOrder", *[DOWN] * 40)
    async with OrderClient(served.target, listeners=[events.append]) as client:
        for _ in range(20):
            with pytest.raises(errors.Unavailable):
                await client.get_order("one")
        with pytest.raises(errors.Unavailable, match="BREAKER_OPEN") as caught:
            await client.get_order("one")
    assert caught.value.retry_delay_s == pytest.approx(5, rel=0.25)
    opened = [event for event in events if isinstance(event, BreakerChanged)]
    assert [(event.old, event.new) for event in opened] == [("closed", "open")]
    assert len(served.orders.received) == 20


async def test_a_channel_takes_options_for_it(served: Served) -> None:
    served.orders.will("CancelOrder", *[Refusal(grpc.StatusCode.INTERNAL)] * 3)
    async with (
        open_channel(
            served.target,
            contract=ORDER_CONTRACT,
            breaker=BreakerOptions(minimum_attempts=2, failure_ratio=1),
        ) as channel,
        OrderClient(channel) as client,
    ):
        reasons = []
        for _ in range(3):
            with pytest.raises(errors.OrderflowError) as caught:
                await client.cancel_order("one")
            reasons.append(caught.value.reason)
    assert reasons == ["", "", "BREAKER_OPEN"]


async def _wait(bench: ClientBench) -> order_service_pb2.GetOrderResponse:
    # Longer than the method's own timeout, which can pass while the other calls have their turns.
    return await bench.orders.GetOrder(REQUEST, timeout=60)
