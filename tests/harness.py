"""The real service in this process: real gRPC on a free loopback port, real SQLite, a simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from orderflow.v1 import order_pb2, order_service_pb2_grpc
from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import OrderClient, item, money
from orderflow_server.app import OrderApp, order_app
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.ledger import EntryKind
from orderflow_server.payments.simulator.server import PaymentSimulator
from orderflow_server.settings import Settings

NO_SPANS = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
NO_FAULTS = Faults()
OUTAGE = Faults(outage=True)
ALWAYS_DECLINED = Faults(decline_rate=1.0)


@dataclass(frozen=True)
class Service:
    """A running service and ways to talk to it.

    Attributes:
        client: What users have.
        stub: The generated stub on a bare channel: no policies in between.
        channel: That channel.
    """

    app: OrderApp
    simulator: PaymentSimulator
    client: OrderClient
    stub: order_service_pb2_grpc.OrderServiceAsyncStub
    channel: grpc.aio.Channel

    def set_faults(self, faults: Faults) -> None:
        self.simulator.injector.faults = faults

    def charges(self, order_id: str) -> int:
        return self._entries(order_id, EntryKind.CHARGE)

    def refunds(self, order_id: str) -> int:
        return self._entries(order_id, EntryKind.REFUND)

    def _entries(self, order_id: str, kind: EntryKind) -> int:
        entries = self.simulator.ledger.entries()
        return sum(entry.reference == order_id and entry.kind is kind for entry in entries)

    async def orders(self) -> list[order_pb2.Order]:
        return [order async for order in self.client.list_orders(page_size=1000)]


@asynccontextmanager
async def running_service(
    directory: Path, *, tracer_provider: TracerProvider = NO_SPANS, **settings: Any
) -> AsyncIterator[Service]:
    """Starts everything; the database is kept in `directory`, so a second start finds it."""
    async with PaymentSimulator(seed=1) as simulator:
        values: dict[str, Any] = {
            "address": "127.0.0.1:0",
            "ops_address": "127.0.0.1:0",
            "database": directory / "orders.db",
            "gateway": simulator.target,
            "worker_poll_s": 0.02,
            "grace_s": 2.0,
        }
        async with (
            order_app(Settings(**(values | settings)), tracer_provider=tracer_provider) as app,
            OrderClient(app.address) as client,
            grpc.aio.insecure_channel(app.address) as channel,
        ):
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            yield Service(app, simulator, client, stub, channel)


def create_request(**changes: Any) -> pb.CreateOrderRequest:
    """A good request, with `changes` to its fields."""
    fields: dict[str, Any] = {
        "request_id": str(uuid4()),
        "customer_id": "alice",
        "items": [item("BOOK-1", 2, money("12.50", "EUR")), item("PEN", 1, money("0.99", "EUR"))],
        "payment_token": "tok_visa",
    }
    return pb.CreateOrderRequest(**(fields | changes))


@dataclass(frozen=True)
class Failure:
    """What a failed call says, from its google.rpc details."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    violations: Sequence[tuple[str, str]]

    @property
    def fields(self) -> set[str]:
        return {field for field, _ in self.violations}


def failure_of(error: grpc.aio.AioRpcError) -> Failure:
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    for key, value in error.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                detail.Unpack(info)
                detail.Unpack(bad_request)
    return Failure(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        violations=[(v.field, v.description) for v in bad_request.field_violations],
    )


async def until(condition: Callable[[], object], *, timeout_s: float = 5.0) -> None:
    """Returns when the condition holds; fails when it does not within the timeout."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)
