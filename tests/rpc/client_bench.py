"""A channel whose calls keep to a contract, in a time that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from resilience.virtual_time import VirtualTime, no_jitter

from orderflow.v1 import order_service_pb2_grpc
from orderflow_client.contract import MethodContract
from orderflow_client.interceptors import interceptors
from orderflow_client.method_policies import policies_of
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, PolicyEvent
from orderflow_client.resilience.retry import RetryBudget

AT_ONCE = BreakerOptions(minimum_attempts=1, failure_ratio=1.0)
"""A breaker that a single failure opens, for 5 seconds."""


@asynccontextmanager
async def connected(*channels: grpc.aio.Channel) -> AsyncIterator[None]:
    """Channels for tests of calls: one that has to connect first fails when that does."""
    async with AsyncExitStack() as stack:
        for channel in channels:
            await stack.enter_async_context(channel)
            await channel.channel_ready()
        yield


class _Innermost(grpc.aio.UnaryUnaryClientInterceptor):
    """Sees what is handed to gRPC, which rounds it."""

    def __init__(self) -> None:
        self.timeouts_s: list[Any] = []

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        self.timeouts_s.append(client_call_details.timeout)
        return await continuation(client_call_details, request)


class ClientBench:
    """Attributes: the channel, and what its policies share, hear and see.

    Delays between attempts pass at once. Unless it is given another, they pass on a clock that
    stands still otherwise; what is given to gRPC as a timeout runs in real time.
    """

    def __init__(
        self,
        target: str,
        contract: Mapping[str, MethodContract],
        *,
        breaker: BreakerOptions = AT_ONCE,
        reserve_s: float = 0.5,
        clock: MonotonicClock | None = None,
    ) -> None:
        self.time = VirtualTime()
        self.budget = RetryBudget()
        self.events: list[PolicyEvent] = []
        self.methods = policies_of(
            contract,
            target=target,
            budget=self.budget,
            breaker=breaker,
            listeners=[self.events.append],
            reserve_s=reserve_s,
            sleep=self.time.sleep,
            random=no_jitter,
            clock=clock or self.time.clock,
        )
        innermost = _Innermost()
        self.timeouts_s = innermost.timeouts_s
        """Of each attempt of a unary call, to the last digit."""
        self.channel = grpc.aio.insecure_channel(
            target,
            [
                ("grpc.enable_retries", 0),
                ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
            ],
            interceptors=[*interceptors(self.methods), innermost],
        )
        self.orders: order_service_pb2_grpc.OrderServiceAsyncStub = (
            order_service_pb2_grpc.OrderServiceStub(self.channel)
        )

    @property
    def breaker_states(self) -> list[str]:
        """Every state that a breaker went to."""
        return [event.new.value for event in self.events if isinstance(event, BreakerChanged)]
