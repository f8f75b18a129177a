"""The exported service config makes gRPC's own retries do what ours do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from rpc.scripted_service import Refusal, Served, serving

from orderflow.v1 import order_service_pb2, order_service_pb2_grpc
from orderflow_client.channel import open_channel
from orderflow_client.client import ORDER_CONTRACT
from orderflow_client.service_config import service_config

GET = order_service_pb2.GetOrderRequest(order_id="one")
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    # One for each test: gRPC keeps one retry budget for each address.
    async with serving() as served:
        yield served


def stock_channel(target: str) -> grpc.aio.Channel:
    """As a client in another language has it: gRPC, the exported config, and nothing of ours.

    But without its timeouts. The core counts them from a start that it takes from the processor's
    cycle counter, which in some virtual machines is seconds off (grpcio 1.85).
    """
    config = service_config(ORDER_CONTRACT)
    for method in config["methodConfig"]:
        del method["timeout"]
    return grpc.aio.insecure_channel(
        target, [("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(config))]
    )


async def attempts(channel: grpc.aio.Channel, served: Served, refusal: Refusal) -> int:
    """How often a call is tried when every attempt is refused."""
    served.orders.received.clear()
    served.orders.answers["GetOrder"].clear()
    served.orders.will("GetOrder", *[refusal] * 20)
    async with channel:
        stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOrder(GET)
    assert caught.value.code() is refusal.code
    assert [each.metadata.get("grpc-previous-rpc-attempts") for each in served.orders.received] == [
        None if number == 0 else str(number) for number in range(len(served.orders.received))
    ]
    return len(served.orders.received)


@pytest.mark.parametrize("code", FAILURES)
async def test_each_code_is_retried_as_often_as_by_ours(
    served: Served, code: grpc.StatusCode
) -> None:
    refusal = Refusal(code, "no")
    ours = await attempts(open_channel(served.target, contract=ORDER_CONTRACT), served, refusal)
    stock = await attempts(stock_channel(served.target), served, refusal)
    assert stock == ours
    retried = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert ours == (5 if code in retried else 1)


@pytest.mark.parametrize("pushback", ["-1", "soon", "1"])
async def test_a_pushback_is_obeyed_as_by_ours(served: Served, pushback: str) -> None:
    refusal = Refusal(
        grpc.StatusCode.UNAVAILABLE, "no", trailing={"grpc-retry-pushback-ms": pushback}
    )
    ours = await attempts(open_channel(served.target, contract=ORDER_CONTRACT), served, refusal)
    stock = await attempts(stock_channel(served.target), served, refusal)
    assert stock == ours == (5 if pushback == "1" else 1)


async def test_the_budget_is_that_of_ours(served: Served) -> None:
    """Five failures take half of the tokens: the next call is not retried."""
    refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "no")

    async def in_two_calls(channel: grpc.aio.Channel) -> list[int]:
        served.orders.received.clear()
        served.orders.answers["GetOrder"].clear()
        served.orders.will("GetOrder", *[refusal] * 20)
        counts = []
        async with channel:
            stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
            for _ in range(2):
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.GetOrder(GET)
                counts.append(len(served.orders.received))
        return counts

    assert await in_two_calls(open_channel(served.target, contract=ORDER_CONTRACT)) == [5, 6]
    assert await in_two_calls(stock_channel(served.target)) == [5, 6]
