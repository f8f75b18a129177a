"""The server's chain: one status for every way a call can end, and nothing leaked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Never

import grpc
import pytest
from structlog.testing import capture_logs

from harness import Service, create_request, failure_of, until
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client.resilience import deadline
from orderflow_server.orders import errors
from orderflow_server.rpc.chain import ServerChain
from orderflow_server.rpc.interceptors.access_log import access_log
from orderflow_server.rpc.interceptors.deadline import deadlines
from orderflow_server.rpc.interceptors.error_mapping import error_mapping
from orderflow_server.rpc.server import ORDER_SERVICE
from orderflow_server.telemetry.correlation import add_names

CANARY = "canary-postgres://user:secret@host"
GET = f"/{ORDER_SERVICE}/GetOrder"


class Scripted(order_service_pb2_grpc.OrderServiceServicer):
    """An OrderService that does what a test tells it."""

    def __init__(self) -> None:
        self.unary: Any = None
        self.stream: Any = None

    async def GetOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self.unary(request, context)

    async def WatchOrder(  # noqa: N802
        self, request: Any, context: Any
    ) -> AsyncIterator[pb.WatchOrderResponse]:
        async for response in self.stream(request, context):
            yield response

    async def CreateOrder(self, request: Any, context: Any) -> Never:  # noqa: N802
        raise NotImplementedError

    ListOrders = CancelOrder = CreateOrder


@asynccontextmanager
async def scripted(
    *, timeout_s: float = 5.0
) -> AsyncIterator[tuple[Scripted, order_service_pb2_grpc.OrderServiceAsyncStub, ServerChain]]:
    servicer = Scripted()
    timeouts = {GET: timeout_s, f"/{ORDER_SERVICE}/WatchOrder": timeout_s}
    chain = ServerChain(
        [access_log(slow_call_s=5.0), error_mapping, deadlines(timeouts)], services=[ORDER_SERVICE]
    )
    server = grpc.aio.server(interceptors=[chain])
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, order_service_pb2_grpc.OrderServiceStub(channel), chain
    await server.stop(None)
    await chain.finish(timeout_s=5)


async def code_logged(logs: list[Any]) -> tuple[str, str]:
    await until(lambda: any("latency_ms" in entry for entry in logs))
    [end] = [entry for entry in logs if "latency_ms" in entry]
    return end["code"], end["log_level"]


async def test_an_unexpected_exception_is_internal_and_keeps_its_text_to_itself() -> None:
    async def fail(request: Any, context: Any) -> Never:
        raise RuntimeError(CANARY) from ConnectionResetError(CANARY)

    async with scripted() as (servicer, stub, _):
        servicer.unary = fail
        with capture_logs(processors=[add_names]) as logs:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetOrder(pb.GetOrderRequest(), metadata=[("x-request-id", "call-7")])
            assert await code_logged(logs) == ("INTERNAL", "error")
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "INTERNAL"
    assert failure.metadata["request_id"] == "call-7"
    on_the_wire = f"{caught.value.details()} {caught.value.trailing_metadata()} {failure}"
    assert CANARY not in on_the_wire
    [line] = [entry for entry in logs if "latency_ms" in entry]
    assert line["request_id"] == "call-7"
    assert line["exc_info"].__cause__ is not None


async def test_an_exception_in_the_middle_of_a_stream_is_mapped_too() -> None:
    async def stream(request: Any, context: Any) -> AsyncIterator[pb.WatchOrderResponse]:
        yield pb.WatchOrderResponse()
        raise errors.StoreUnavailable(CANARY)

    async with scripted() as (servicer, stub, _):
        servicer.stream = stream
        with capture_logs() as logs:
            call: Any = stub.WatchOrder(pb.WatchOrderRequest())
            await call.read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert await code_logged(logs) == ("UNAVAILABLE", "warning")
    assert failure_of(caught.value).reason == "STORE_UNAVAILABLE"
    assert CANARY not in str(caught.value.details())


async def test_a_cancellation_that_is_not_the_calls_own_does_not_leave_the_caller_waiting() -> None:
    async def wait_for_what_is_cancelled(request: Any, context: Any) -> None:
        other = asyncio.ensure_future(asyncio.get_running_loop().create_future())
        other.cancel()
        await other

    async with scripted() as (servicer, stub, _):
        servicer.unary = wait_for_what_is_cancelled
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOrder(pb.GetOrderRequest(), timeout=5)
    assert failure_of(caught.value).reason == "INTERNAL"


async def test_a_handlers_own_abort_goes_through_unchanged() -> None:
    async def abort(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it is")

    async with scripted() as (servicer, stub, _):
        servicer.unary = abort
        with capture_logs() as logs:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetOrder(pb.GetOrderRequest())
            assert await code_logged(logs) == ("DATA_LOSS", "error")
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as it is")


async def hang(request: Any, context: Any) -> Never:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def test_the_callers_cancellation_and_its_deadline_are_told_apart() -> None:
    async with scripted() as (servicer, stub, chain):
        servicer.unary = hang
        with capture_logs() as logs:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetOrder(pb.GetOrderRequest(), timeout=0.1)
            assert await code_logged(logs) == ("DEADLINE_EXCEEDED", "warning")

        with capture_logs() as logs:
            call = stub.GetOrder(pb.GetOrderRequest())
            await until(lambda: chain.calls)
            call.cancel()
            assert await code_logged(logs) == ("CANCELLED", "info")


async def test_a_method_has_a_limit_of_its_own_whatever_the_caller_asks_for() -> None:
    async with scripted(timeout_s=0.1) as (servicer, stub, _):
        servicer.unary = hang
        for timeout in (None, 60.0):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetOrder(pb.GetOrderRequest(), timeout=timeout)
            assert failure_of(caught.value).reason == "DEADLINE_EXCEEDED"


async def test_a_timeout_of_the_handlers_own_is_not_taken_for_the_deadline() -> None:
    async def time_out(request: Any, context: Any) -> Never:
        raise TimeoutError(CANARY)

    async with scripted() as (servicer, stub, _):
        servicer.unary = time_out
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetOrder(pb.GetOrderRequest())
    assert failure_of(caught.value).reason == "INTERNAL"


async def test_the_handler_sees_the_nearer_of_both_deadlines() -> None:
    seen: list[float | None] = []

    async def look(request: Any, context: Any) -> pb.GetOrderResponse:
        seen.append(deadline.remaining_s())
        return pb.GetOrderResponse()

    async with scripted(timeout_s=5.0) as (servicer, stub, _):
        servicer.unary = look
        for timeout in (None, 60.0, 3.0):
            await stub.GetOrder(pb.GetOrderRequest(), timeout=timeout)
    without, capped, own = seen
    assert without is not None
    assert capped is not None
    assert own is not None
    assert 4 < without <= 5
    assert 4 < capped <= 5
    # gRPC rounds up what it sends by a percent.
    assert 2 < own <= 3.1


async def test_no_handler_is_left_after_the_server_has_finished() -> None:
    ended = asyncio.Event()

    async def slow_cleanup(request: Any, context: Any) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(20):
                await asyncio.sleep(0.001)
            ended.set()

    async with scripted() as (servicer, stub, chain):
        servicer.unary = slow_cleanup
        call = stub.GetOrder(pb.GetOrderRequest())
        await until(lambda: chain.calls)
        call.cancel()
        await chain.finish(timeout_s=5)
        assert ended.is_set()
        assert chain.calls == 0


async def test_2000_cancelled_calls_leave_nothing_running(service: Service) -> None:
    # The background worker and gRPC have a few tasks, whose number goes up and down.
    at_rest = len(asyncio.all_tasks()) + 10
    for _ in range(20):
        calls = [service.stub.CreateOrder(create_request()) for _ in range(100)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await until(
        lambda: not service.app.rpc.chain.calls and len(asyncio.all_tasks()) <= at_rest,
        timeout_s=10,
    )
    for order in await service.orders():
        settled = await service.client.wait_until_settled(order.id)
        assert service.charges(settled.id) == 1
