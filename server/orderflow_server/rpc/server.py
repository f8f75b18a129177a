"""The gRPC server: its options, its services, and the order of its interceptors."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.trace import Tracer

from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc as rpc
from orderflow_client.contract import contracts
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_server.rpc.chain import Interceptor, ServerChain
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.interceptors.access_log import access_log
from orderflow_server.rpc.interceptors.admission import admission
from orderflow_server.rpc.interceptors.authentication import Authenticate, authentication
from orderflow_server.rpc.interceptors.deadline import deadlines
from orderflow_server.rpc.interceptors.error_mapping import error_mapping
from orderflow_server.rpc.interceptors.metrics import call_metrics
from orderflow_server.rpc.interceptors.retry import retry_once
from orderflow_server.rpc.interceptors.spans import ServerSpans
from orderflow_server.rpc.servicer import OrderServicer

ORDER_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["OrderService"]
ORDER_SERVICE = ORDER_DESCRIPTOR.full_name
CONTRACT = contracts(ORDER_DESCRIPTOR)
"""The policies of the service's methods."""
HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """How many calls may run at once.

    Attributes:
        unary: Limits the calls with one response.
        streams: Limits the others.
    """

    unary: Limiter
    streams: Limiter


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTelemetry:
    """Where the calls are seen.

    Attributes:
        tracer: Makes their spans.
        metrics: Counts them.
        slow_call_s: A call with one response that takes longer is a warning in the log, seconds.
    """

    tracer: Tracer
    metrics: CallMetrics
    slow_call_s: float


def interceptors(
    limits: Admission,
    authenticate: Authenticate,
    telemetry: CallTelemetry,
    listeners: Sequence[Listener] = (),
) -> list[Interceptor]:
    """Every interceptor, outermost first."""
    timeouts_s = {path: m.timeout_s for path, m in CONTRACT.items() if m.timeout_s is not None}
    return [
        # Outermost, so that the log line of a call, and all that is logged during it, is within
        # its span.
        ServerSpans(telemetry.tracer),
        # These two outside the error mapping: they speak of the status that the caller gets.
        access_log(
            slow_call_s=telemetry.slow_call_s,
            streams=[path for path, method in CONTRACT.items() if method.streaming],
        ),
        call_metrics(CONTRACT, telemetry.metrics),
        # Outside all that refuses calls, so that a refusal gets its status here.
        error_mapping,
        # Before admission, which asks whether the caller is trusted.
        authentication(authenticate),
        # Before admission: a call that is late already takes nobody's place, and one that waits
        # for a place does so within its deadline.
        deadlines(timeouts_s),
        admission(CONTRACT, unary=limits.unary, streams=limits.streams),
        # Inside the deadline and a single place, and outside nothing but the handler: the breaker
        # of each dependency is around that dependency (`storage.guarded`, the gateway's channel).
        retry_once(CONTRACT, listeners=listeners),
    ]


@dataclass(frozen=True, slots=True)
class RpcServer:
    """A server that is bound to its address and not started yet."""

    server: grpc.aio.Server
    chain: ServerChain
    health: HealthService
    port: int

    async def start(self) -> None:
        # Every call inherits the context that the server was started in: an empty one.
        await asyncio.create_task(self.server.start(), context=contextvars.Context())


def make_server(
    address: str,
    *,
    servicer: OrderServicer,
    health: HealthService,
    limits: Admission,
    authenticate: Authenticate,
    telemetry: CallTelemetry,
    listeners: Sequence[Listener],
    max_request_bytes: int,
    share_port: bool,
) -> RpcServer:
    """Makes the server.

    Args:
        address: Where, host:port. Port 0 takes a free one.
        servicer: What answers.
        health: Says whether it does.
        limits: How many calls may run at once.
        authenticate: Says who calls.
        telemetry: Where the calls are seen.
        listeners: Told of second runs.
        max_request_bytes: The largest request that is read.
        share_port: Other processes serve on the same port.

    Raises:
        RuntimeError: The address cannot be bound.
    """
    chain = ServerChain(
        interceptors(limits, authenticate, telemetry, listeners), services=[ORDER_SERVICE]
    )
    server = grpc.aio.server(
        interceptors=[chain],
        options=[
            ("grpc.max_receive_message_length", max_request_bytes),
            # Unless it was meant: a second process on the port is a mistake.
            ("grpc.so_reuseport", int(share_port)),
            # The clients ping every 30 s, also without calls (orderflow_client.channel). The
            # library's default calls that abuse and hangs up.
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ],
    )
    rpc.add_OrderServiceServicer_to_server(servicer, server)
    # The library carries no types.
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]
    reflection.enable_server_reflection(
        [ORDER_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME], server
    )
    return RpcServer(server, chain, health, server.add_insecure_port(address))
