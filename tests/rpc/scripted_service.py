"""An OrderService that answers as told, on a real server in this process."""

# ruff: noqa: N802  the contract names the methods

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orderflow.v1 import order_pb2, order_service_pb2, order_service_pb2_grpc


@dataclass(frozen=True)
class Refusal:
    """An answer that is an error."""

    code: grpc.StatusCode
    message: str = ""
    details: Sequence[Message] = ()
    trailing: Mapping[str, str | bytes] = field(default_factory=dict)

    async def abort(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        trailing = list(self.trailing.items())
        if self.details:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            for detail in self.details:
                status.details.add().Pack(detail)
            trailing.append(("grpc-status-details-bin", status.SerializeToString()))
        await context.abort(self.code, self.message, tuple(trailing))


HANG = object()
"""An answer that never comes."""


def reason(text: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=text, domain="orderflow", metadata=metadata)


@dataclass(frozen=True)
class Received:
    """One attempt as the server saw it."""

    method: str
    request: Any
    metadata: Mapping[str, str | bytes]
    time_remaining_s: float


class ScriptedOrderService(order_service_pb2_grpc.OrderServiceServicer):
    """Answers each method from its own queue, and then with an order that echoes the request.

    An answer is a response message (a list of them for a stream, where a `Refusal` or `HANG`
    may come last), a `Refusal`, or `HANG`.
    """

    def __init__(self) -> None:
        self.answers: dict[str, deque[Any]] = defaultdict(deque)
        self.received: list[Received] = []
        self.hanging = asyncio.Event()
        self.hung_up = asyncio.Event()

    def will(self, method: str, *answers: Any) -> None:
        self.answers[method].extend(answers)

    def attempts(self, method: str) -> list[Received]:
        return [each for each in self.received if each.method == method]

    async def CreateOrder(self, request: Any, context: Any) -> Any:
        order = order_pb2.Order(
            id="made", request_id=request.request_id, customer_id=request.customer_id
        )
        return await self._answer(
            "CreateOrder", request, context, order_service_pb2.CreateOrderResponse(order=order)
        )

    async def GetOrder(self, request: Any, context: Any) -> Any:
        order = order_pb2.Order(id=request.order_id)
        return await self._answer(
            "GetOrder", request, context, order_service_pb2.GetOrderResponse(order=order)
        )

    async def ListOrders(self, request: Any, context: Any) -> Any:
        return await self._answer(
            "ListOrders", request, context, order_service_pb2.ListOrdersResponse()
        )

    async def CancelOrder(self, request: Any, context: Any) -> Any:
        order = order_pb2.Order(id=request.order_id, state=order_pb2.ORDER_STATE_CANCELLED)
        return await self._answer(
            "CancelOrder", request, context, order_service_pb2.CancelOrderResponse(order=order)
        )

    async def WatchOrder(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._note("WatchOrder", request, context)
        answers = self.answers["WatchOrder"]
        for answer in answers.popleft() if answers else ():
            yield await self._deliver(answer, context)

    def _note(self, method: str, request: Any, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.received.append(Received(method, request, metadata, context.time_remaining()))

    async def _answer(self, method: str, request: Any, context: Any, default: Any) -> Any:
        self._note(method, request, context)
        answers = self.answers[method]
        return await self._deliver(answers.popleft() if answers else default, context)

    async def _deliver(self, answer: Any, context: Any) -> Any:
        if isinstance(answer, Refusal):
            await answer.abort(context)
        if answer is HANG:
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.hung_up.set()
        return answer


class ScriptedHealth(health_pb2_grpc.HealthServicer):
    """Says of each service what `statuses` says; of others, that there is no such service.

    Watches are told what it was when they began.
    """

    def __init__(self) -> None:
        self.statuses = {
            "": health_pb2.HealthCheckResponse.SERVING,
            "orderflow.v1.OrderService": health_pb2.HealthCheckResponse.SERVING,
        }

    async def Check(self, request: Any, context: Any) -> Any:
        if request.service not in self.statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self.statuses[request.service])

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield health_pb2.HealthCheckResponse(status=self.statuses[request.service])
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Served:
    target: str
    orders: ScriptedOrderService
    health: ScriptedHealth


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0") -> AsyncIterator[Served]:
    """A server on a free port, or the one given, until the block ends."""
    # Its own port: else the kernel may give it that of another process's.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    orders, health = ScriptedOrderService(), ScriptedHealth()
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Served(f"127.0.0.1:{port}", orders, health)
    finally:
        await server.stop(None)
