"""The caller's deadline reaches the gateway: nothing is asked for longer than anybody waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never

import grpc
import pytest

from harness import Service, create_request, running_service, until
from orderflow.payments.v1 import payment_gateway_pb2, payment_gateway_pb2_grpc
from orderflow.v1 import order_pb2

ROUNDING = 1.01
"""gRPC may round a timeout up by a percent, each time that it puts one on the wire."""
RESERVE_S = 0.2
ATTEMPT_TIMEOUT_S = 1.0
"""Of the gateway's contract."""


class RecordingGateway(payment_gateway_pb2_grpc.PaymentGatewayServicer):
    """Charges everything; writes down how much time each Charge brings along.

    Attributes:
        remaining_s: Of each Charge, in the order of arrival.
        hanging: Charges are never answered.
        cancelled: How many of those were given up by the caller.
    """

    def __init__(self) -> None:
        self.remaining_s: list[float | None] = []
        self.hanging = False
        self.cancelled = 0

    async def Charge(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.remaining_s.append(context.time_remaining())
        if self.hanging:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.cancelled += 1
        return payment_gateway_pb2.ChargeResponse(
            payment=payment_gateway_pb2.Payment(
                idempotency_key=request.idempotency_key,
                reference=request.reference,
                amount=request.amount,
                state=payment_gateway_pb2.PAYMENT_STATE_CHARGED,
            )
        )

    async def GetPayment(self, request: Any, context: Any) -> Never:  # noqa: N802
        await context.abort(grpc.StatusCode.NOT_FOUND, "no payment yet")
        raise AssertionError

    async def Refund(self, request: Any, context: Any) -> Never:  # noqa: N802
        raise NotImplementedError

    Void = Refund


@asynccontextmanager
async def charging(directory: Path, **settings: Any) -> AsyncIterator[tuple[Service, Any]]:
    gateway = RecordingGateway()
    server = grpc.aio.server()
    payment_gateway_pb2_grpc.add_PaymentGatewayServicer_to_server(gateway, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    values: dict[str, Any] = {"gateway": f"127.0.0.1:{port}", "reserve_s": RESERVE_S}
    try:
        async with running_service(directory, **(values | settings)) as service:
            yield service, gateway
    finally:
        await server.stop(None)


async def create(service: Service, timeout_s: float | None) -> order_pb2.Order:
    # The bare stub: no client of ours that keeps to the deadline by itself.
    return (await service.stub.CreateOrder(create_request(), timeout=timeout_s)).order


@pytest.mark.parametrize("timeout_s", [0.6, 0.8, 1.0, 1.2])
async def test_the_gateway_gets_what_is_left_of_the_callers_time(
    tmp_path: Path, timeout_s: float
) -> None:
    async with charging(tmp_path) as (service, gateway):
        order = await create(service, timeout_s)
        assert order.state == order_pb2.ORDER_STATE_PAID
        [remaining_s] = gateway.remaining_s
        left_s = (timeout_s * ROUNDING - RESERVE_S) * ROUNDING
        assert 0 < remaining_s <= min(left_s, ATTEMPT_TIMEOUT_S * ROUNDING)


async def test_the_reserve_is_subtracted_once(tmp_path: Path) -> None:
    """Of 4.5 s with a reserve of 2 s an attempt gets its full second; twice would leave half."""
    async with charging(tmp_path, reserve_s=2.0, inline_payment_s=10.0) as (service, gateway):
        await create(service, 4.5)
        [remaining_s] = gateway.remaining_s
        assert remaining_s > 0.6 * ATTEMPT_TIMEOUT_S


@pytest.mark.parametrize("timeout_s", [None, 5.0, 60.0])
async def test_a_caller_with_much_time_gives_the_gateway_no_more_than_its_own(
    tmp_path: Path, timeout_s: float | None
) -> None:
    async with charging(tmp_path, inline_payment_s=0.8) as (service, gateway):
        await create(service, timeout_s)
        [remaining_s] = gateway.remaining_s
        assert 0 < remaining_s <= (0.8 - RESERVE_S) * ROUNDING


async def test_each_retry_gets_less_than_the_one_before(tmp_path: Path) -> None:
    """Three attempts of a second each do not fit: the last gets what is left."""
    async with charging(tmp_path) as (service, gateway):
        gateway.hanging = True
        started_s = asyncio.get_running_loop().time()
        order = await create(service, 2.0)
        assert asyncio.get_running_loop().time() - started_s < 2.0
        assert order.state == order_pb2.ORDER_STATE_PENDING_PAYMENT
        first_s, second_s, *_ = gateway.remaining_s
        assert first_s <= ATTEMPT_TIMEOUT_S * ROUNDING
        assert second_s <= (2.0 * ROUNDING - RESERVE_S - ATTEMPT_TIMEOUT_S * 0.9) * ROUNDING


@pytest.mark.parametrize("timeout_s", [0.5, 0.7, 1.0])
async def test_a_hanging_gateway_leaves_the_order_pending_before_the_callers_deadline(
    tmp_path: Path, timeout_s: float
) -> None:
    async with charging(tmp_path, worker_poll_s=0.02) as (service, gateway):
        gateway.hanging = True
        started_s = asyncio.get_running_loop().time()
        order = await create(service, timeout_s)
        assert asyncio.get_running_loop().time() - started_s < timeout_s
        assert order.state == order_pb2.ORDER_STATE_PENDING_PAYMENT
        # The gateway is not left working for nobody.
        await until(lambda: gateway.cancelled == len(gateway.remaining_s))
        # And the order is paid in the end.
        gateway.hanging = False
        settled = await service.client.wait_until_settled(order.id)
        assert settled.state == order_pb2.ORDER_STATE_PAID
