"""The simulator as a server: inside a test's or a demo's process, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextvars
import signal
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Self

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from orderflow.payments.v1 import (
    payment_gateway_pb2,
    payment_gateway_pb2_grpc,
    payment_simulator_pb2,
    payment_simulator_pb2_grpc,
)
from orderflow_client.channel import KEEPALIVE_TIME_MS
from orderflow_server.acceptors import Acceptors
from orderflow_server.orders.ports import Clock
from orderflow_server.payments.simulator.faults import FaultInjector, Faults
from orderflow_server.payments.simulator.ledger import Ledger
from orderflow_server.payments.simulator.lies import BytesAllowed
from orderflow_server.payments.simulator.servicer import (
    PaymentGatewayServicer,
    PaymentSimulatorServicer,
    Sleep,
)

GATEWAY_SERVICE = payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"].full_name
SIMULATOR_SERVICE = payment_simulator_pb2.DESCRIPTOR.services_by_name[
    "PaymentSimulatorService"
].full_name

SERVER_OPTIONS = (
    # One simulator per port: a second one must fail instead of taking half of the calls.
    ("grpc.so_reuseport", 0),
    # By default the pings of a channel whose call hangs are strikes, and the third hangs up.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_TIME_MS // 2),
)

_log = structlog.get_logger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PaymentSimulator:
    """A payment gateway whose money is not real and whose faults are made to order.

        async with PaymentSimulator(seed=7, faults=Faults(timeout_rate=0.01)) as simulator:
            open_channel(simulator.target)

    Its books live as long as the object.

    Args:
        host: The address to listen on. There is no authentication.
        port: 0 takes a free one; `target` has it.
        seed: Equal seeds and an equal order of calls give equal faults.
        grace_s: How long calls under way may go on when the server stops.

    Attributes:
        ledger: The books.
        injector: Holds the faults in force; they may be replaced at any time.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        faults: Faults = Faults(),  # noqa: B008  frozen: all callers may share it
        grace_s: float = 0.5,
        now: Clock = _utc_now,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.ledger = Ledger(now)
        self.injector = FaultInjector(Random(seed), faults)
        self._host = host
        self._port = port
        self._grace_s = grace_s
        self._sleep = sleep
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        """Where it listens, once it does, as `host:port`."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Listens and serves.

        Raises:
            RuntimeError: The address cannot be bound.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS)
        acceptors = Acceptors(server)
        payment_gateway_pb2_grpc.add_PaymentGatewayServicer_to_server(
            PaymentGatewayServicer(self.ledger, self.injector, self._sleep),
            BytesAllowed(acceptors),  # type: ignore[arg-type]  # has what generated code calls
        )
        payment_simulator_pb2_grpc.add_PaymentSimulatorServiceServicer_to_server(
            PaymentSimulatorServicer(self.ledger, self.injector), server
        )
        health_servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # has no types
        await health_servicer.set(GATEWAY_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)  # type: ignore[no-untyped-call]
        services = (GATEWAY_SERVICE, SIMULATOR_SERVICE, health.SERVICE_NAME)
        reflection.enable_server_reflection((*services, reflection.SERVICE_NAME), server)
        self._port = server.add_insecure_port(self.target)
        # Every call inherits the context that the server was started in: it gets an empty one,
        # or the starter's deadline and log fields would be in every call.
        await asyncio.create_task(acceptors.start(), context=contextvars.Context())
        self._server = server

    async def stop(self) -> None:
        """Takes no new calls, and cancels those that are still under way after the grace."""
        if self._server is not None:
            await self._server.stop(self._grace_s)
            self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


async def run(*, host: str, port: int, seed: int, faults: Faults) -> None:
    """Serves until SIGTERM or SIGINT, then returns."""
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, told_to_stop.set)
    try:
        async with PaymentSimulator(host=host, port=port, seed=seed, faults=faults) as simulator:
            _log.info("payment simulator is serving", target=simulator.target, seed=seed)
            await told_to_stop.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
