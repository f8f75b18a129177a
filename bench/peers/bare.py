"""A grpc.aio server with no Orderflow in it: what a call costs before anything is done for it.

Answers CreateOrder and GetOrder of the same contract, with the same messages, and does nothing
else. It runs on uvloop and is scheduled as the service is. With `--opentelemetry` it has the stock
tracing interceptor, which keeps 1 % of the traces and hands them to an exporter that forgets them.
"""

from __future__ import annotations

import sys
from typing import Any, Never

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from orderflow.v1 import order_pb2, order_service_pb2_grpc
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.lifecycle import leave_alone_what_stays, let_threads_finish_their_turns

SERVICE = "orderflow.v1.OrderService"


class NoOp(order_service_pb2_grpc.OrderServiceServicer):
    async def CreateOrder(  # noqa: N802  the contract's
        self,
        request: pb.CreateOrderRequest,
        context: Any,  # noqa: ARG002  gRPC's signature
    ) -> pb.CreateOrderResponse:
        order = order_pb2.Order(
            id=request.request_id,
            customer_id=request.customer_id,
            items=request.items,
            state=order_pb2.ORDER_STATE_PAID,
        )
        return pb.CreateOrderResponse(order=order)

    async def GetOrder(  # noqa: N802  the contract's
        self,
        request: pb.GetOrderRequest,
        context: Any,  # noqa: ARG002  gRPC's signature
    ) -> pb.GetOrderResponse:
        return pb.GetOrderResponse(order=order_pb2.Order(id=request.order_id))

    async def _no(self, request: Any, context: Any) -> Never:
        raise NotImplementedError

    ListOrders = CancelOrder = _no
    WatchOrder: Any = _no


class Forgetting(InMemorySpanExporter):
    """Takes spans and keeps none."""

    def export(self, spans: Any) -> Any:
        result = super().export(spans)
        self.clear()
        return result


def tracing() -> Any:
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.01)))
    provider.add_span_processor(BatchSpanProcessor(Forgetting()))
    # The library leaves the types of this function out.
    return aio_server_interceptor(provider)  # type: ignore[no-untyped-call]


async def serve(*, opentelemetry: bool) -> None:
    server = grpc.aio.server(interceptors=[tracing()] if opentelemetry else [])
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(NoOp(), server)
    # An OrderClient asks for it.
    healthy = health.aio.HealthServicer()  # type: ignore[attr-defined]  # has no types
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)  # type: ignore[no-untyped-call]  # likewise
    await healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    # As the service does when it has started, and to the good of all alike.
    leave_alone_what_stays()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    let_threads_finish_their_turns()
    uvloop.run(serve(opentelemetry="--opentelemetry" in sys.argv[1:]))
