"""Hedged calls, over gRPC, against one server or two."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from rpc.client_bench import ClientBench, connected
from rpc.scripted_service import HANG, Refusal, Served, serving

from orderflow.v1 import order_service_pb2
from orderflow_client.client import ORDER_CONTRACT
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.events import HedgeStarted, RetryScheduled
from orderflow_client.resilience.hedge import HedgePolicy

GET = "/orderflow.v1.OrderService/GetOrder"
LIST = "/orderflow.v1.OrderService/ListOrders"
REQUEST = order_service_pb2.GetOrderRequest(order_id="one")
DELAY_S = 0.1
DOWN = Refusal(grpc.StatusCode.UNAVAILABLE, "down")


def hedging_bench(target: str, *, delay_s: float | None = DELAY_S) -> ClientBench:
    get = dataclasses.replace(
        ORDER_CONTRACT[GET], hedging=HedgePolicy(max_attempts=2, delay_s=delay_s)
    )
    return ClientBench(
        target, {**ORDER_CONTRACT, GET: get}, breaker=BreakerOptions(), clock=time.monotonic
    )


def previous_attempts(*servers: Served) -> list[str | bytes | None]:
    """What each attempt says of how many came before it."""
    return [
        attempt.metadata.get("grpc-previous-rpc-attempts")
        for served in servers
        for attempt in served.orders.attempts("GetOrder")
    ]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
async def bench(served: Served) -> AsyncIterator[ClientBench]:
    bench = hedging_bench(served.target)
    async with connected(bench.channel):
        yield bench


async def stays_alone(served: Served, call: grpc.aio.Call) -> None:
    """That a call which gets no answer is one attempt, for twice as long as hedges are delayed."""
    await served.orders.hanging.wait()
    await asyncio.sleep(2 * DELAY_S)
    assert len(served.orders.received) == 1
    call.cancel()
    await served.orders.hung_up.wait()


async def test_of_two_servers_the_fast_one_answers_and_the_slow_one_is_let_go(
    served: Served,
) -> None:
    async with serving() as other:
        bench = hedging_bench(f"ipv4:{served.target},{other.target}")
        async with bench.channel:
            while not (served.orders.received and other.orders.received):
                await bench.orders.GetOrder(REQUEST)  # until both are connected
            served.orders.received.clear()
            other.orders.received.clear()
            bench.events.clear()
            served.orders.will("GetOrder", HANG)  # the first that asks it: call or hedge
            for _ in range(2):
                call = bench.orders.GetOrder(REQUEST)
                assert (await call).order.id == "one"
                assert await call.code() is grpc.StatusCode.OK
            await served.orders.hung_up.wait()
        assert previous_attempts(served, other).count("1") == 1
        assert [type(event) for event in bench.events] == [HedgeStarted]


async def test_a_hedge_is_counted_told_of_and_paid_for(served: Served, bench: ClientBench) -> None:
    served.orders.will("GetOrder", HANG)
    assert (await bench.orders.GetOrder(REQUEST)).order.id == "one"
    await served.orders.hung_up.wait()
    assert previous_attempts(served) == [None, "1"]
    assert bench.events == [HedgeStarted(name=GET, attempt=2, cause=None)]
    assert bench.budget.tokens == pytest.approx(9.1)  # one for the hedge, a tenth back


async def test_the_attempts_of_hedges_and_of_their_retries_are_counted_together(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", HANG, DOWN, DOWN)
    assert (await bench.orders.GetOrder(REQUEST)).order.id == "one"
    assert previous_attempts(served) == [None, "1", "2", "3"]
    assert [type(event) for event in bench.events] == [HedgeStarted, RetryScheduled, RetryScheduled]


async def test_retries_of_a_fast_failure_are_not_hedged_too(served: Served) -> None:
    served.orders.will("GetOrder", *[DOWN] * 10)
    bench = hedging_bench(served.target, delay_s=60)  # fast, however busy the machine
    async with bench.channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.orders.GetOrder(REQUEST)
    assert caught.value.details() == "down"
    assert len(served.orders.received) == 5
    assert bench.budget.tokens == 5


async def test_without_budget_nothing_is_hedged(served: Served, bench: ClientBench) -> None:
    for _ in range(5):
        bench.budget.on_failure()
    served.orders.will("GetOrder", HANG)
    await stays_alone(served, bench.orders.GetOrder(REQUEST))


async def test_all_attempts_have_the_deadline_of_the_call(
    served: Served, bench: ClientBench
) -> None:
    served.orders.will("GetOrder", HANG, HANG)
    began_s = asyncio.get_running_loop().time()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bench.orders.GetOrder(REQUEST, timeout=0.4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert asyncio.get_running_loop().time() - began_s == pytest.approx(0.4, abs=0.25)
    first_s, second_s = bench.timeouts_s
    assert 0 < second_s <= first_s - DELAY_S
    assert first_s <= 0.4


async def test_a_cancelled_call_ends_every_attempt(served: Served) -> None:
    async with serving() as other:
        bench = hedging_bench(f"ipv4:{served.target},{other.target}")
        async with bench.channel:
            while not (served.orders.received and other.orders.received):
                await bench.orders.GetOrder(REQUEST)
            served.orders.will("GetOrder", HANG)
            other.orders.will("GetOrder", HANG)
            call = bench.orders.GetOrder(REQUEST)
            await served.orders.hanging.wait()
            await other.orders.hanging.wait()
            before = len(asyncio.all_tasks())
            assert call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await served.orders.hung_up.wait()
            await other.orders.hung_up.wait()
            assert len(asyncio.all_tasks()) < before


async def test_a_method_that_does_not_ask_for_it_is_not_hedged(served: Served) -> None:
    assert ORDER_CONTRACT[LIST].hedging is None
    bench = hedging_bench(served.target)
    served.orders.will("ListOrders", HANG)
    async with bench.channel:
        await stays_alone(served, bench.orders.ListOrders(order_service_pb2.ListOrdersRequest()))


async def test_the_delay_is_learnt_from_what_calls_take(served: Served) -> None:
    """Nothing is hedged until 20 latencies are known."""
    bench = hedging_bench(served.target, delay_s=None)
    async with bench.channel:
        served.orders.will("GetOrder", HANG)
        await stays_alone(served, bench.orders.GetOrder(REQUEST))
        for _ in range(20):
            await bench.orders.GetOrder(REQUEST)
        assert bench.events == []
        served.orders.will("GetOrder", HANG)
        assert (await bench.orders.GetOrder(REQUEST)).order.id == "one"
    assert bench.events == [HedgeStarted(name=GET, attempt=2, cause=None)]
