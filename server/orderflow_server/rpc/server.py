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
from orderflow_server.acceptors import Acceptors
from orderflow_server.rpc.access import roles_by_method
from orderflow_server.rpc.chain import Interceptor, ServerChain
from orderflow_server.rpc.connections import CallerLimits, connection_options
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.interceptors.access_log import access_log
from orderflow_server.rpc.interceptors.admission import admission
from orderflow_server.rpc.interceptors.authentication import Authenticate, authentication
from orderflow_server.rpc.interceptors.deadline import deadlines
from orderflow_server.rpc.interceptors.error_mapping import error_mapping
from orderflow_server.rpc.interceptors.metrics import call_metrics
from orderflow_server.rpc.interceptors.rate_limit import rate_limits
from orderflow_server.rpc.interceptors.retry import retry_once
from orderflow_server.rpc.interceptors.spans import ServerSpans
from orderflow_server.rpc.servicer import OrderServicer
from orderflow_server.security.rate_limit import RateLimiter

ORDER_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["OrderService"]
ORDER_SERVICE = ORDER_DESCRIPTOR.full_name
CONTRACT = contracts(ORDER_DESCRIPTOR)
"""The policies of the service's methods."""
ACCESS = roles_by_method(ORDER_DESCRIPTOR)
"""Who may call them, where callers show tokens."""
_LONGEST_CALL_S = max(method.timeout_s or 0.0 for method in CONTRACT.values())
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What stands between callers and the service.

    Attributes:
        authenticate: Says who calls.
        limits: What callers may ask of the server.
        credentials: TLS. None: plaintext.
        rate_limiter: How often each may call. None: as often as it likes.
    """

    authenticate: Authenticate
    limits: CallerLimits
    credentials: grpc.ServerCredentials | None = None
    rate_limiter: RateLimiter | None = None


def interceptors(
    limits: Admission,
    authenticate: Authenticate,
    telemetry: CallTelemetry,
    listeners: Sequence[Listener] = (),
    rate_limiter: RateLimiter | None = None,
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
        # Behind the name of the caller, and before all that costs more than to refuse.
        *([] if rate_limiter is None else [rate_limits(rate_limiter)]),
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
    acceptors: Acceptors
    health: HealthService
    port: int

    async def start(self) -> None:
        # Every call inherits the context that the server was started in: an empty one.
        await asyncio.create_task(self.acceptors.start(), context=contextvars.Context())


def add_services(
    server: grpc.aio.Server,
    servicer: rpc.OrderServiceServicer,
    health: HealthService,
    chain: ServerChain,
) -> Acceptors:
    """Adds all that the server answers.

    Returns:
        What takes in the orders' calls, and starts the server.
    """
    acceptors = Acceptors(server, chain.resolver)
    acceptors.add(rpc.add_OrderServiceServicer_to_server, servicer)
    # Who asks whether the server is well does not wait behind all that makes it unwell: every
    # method has a queue of its own.
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]
    reflection.enable_server_reflection(
        [ORDER_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME], server
    )
    return acceptors


def make_server(
    address: str,
    *,
    servicer: OrderServicer,
    health: HealthService,
    limits: Admission,
    guard: Guard,
    telemetry: CallTelemetry,
    listeners: Sequence[Listener],
    share_port: bool,
) -> RpcServer:
    """Makes the server.

    Args:
        address: Where, host:port. Port 0 takes a free one.
        servicer: What answers.
        health: Says whether it does.
        limits: How many calls may run at once.
        guard: What stands between callers and the service.
        telemetry: Where the calls are seen.
        listeners: Told of second runs.
        share_port: Other processes serve on the same port.

    Raises:
        RuntimeError: The address cannot be bound.
    """
    chain = ServerChain(
        interceptors(limits, guard.authenticate, telemetry, listeners, guard.rate_limiter),
        services=[ORDER_SERVICE],
    )
    server = grpc.aio.server(
        interceptors=[chain],
        options=[
            # Unless it was meant: a second process on the port is a mistake.
            ("grpc.so_reuseport", int(share_port)),
            *connection_options(guard.limits, longest_call_s=_LONGEST_CALL_S),
        ],
    )
    acceptors = add_services(server, servicer, health, chain)
    if guard.credentials is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, guard.credentials)
    return RpcServer(server, chain, acceptors, health, port)
