"""What a program hands to its clients and channels, to see their calls."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from opentelemetry import trace
from opentelemetry.trace import TracerProvider
from prometheus_client import REGISTRY, CollectorRegistry, Counter

from orderflow_client.contract import MethodContract
from orderflow_client.method_policies import breaker_name
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import RetryBudget
from orderflow_client.telemetry.call_interceptors import around_attempts, around_calls
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_client.telemetry.channel_records import ChannelRecords
from orderflow_client.telemetry.conventions import CODE_LABEL, METHOD_LABEL, SERVICE_LABEL
from orderflow_client.telemetry.policy_metrics import PolicyMetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelTelemetry:
    """What one channel is made with.

    Attributes:
        listener: To be told of what the channel's policies do.
        around_calls: Its outermost interceptors.
        around_attempts: Its innermost interceptors.
    """

    listener: Listener
    around_calls: Sequence[grpc.aio.ClientInterceptor]
    around_attempts: Sequence[grpc.aio.ClientInterceptor]


class ClientTelemetry:
    """Spans, metrics and log lines of calls; for any number of channels.

        telemetry = ClientTelemetry()
        async with OrderClient("127.0.0.1:50051", telemetry=telemetry) as client:
            ...

    Each call has a span, and in it one for each attempt; is counted and timed; and is a line of
    the logger `orderflow_client.calls`. They agree on how it ended. A call that is cancelled
    before it has begun, or made under opentelemetry's `suppress_instrumentation`, is not seen.

    Args:
        tracer_provider: Makes the spans. None: the program's global one.
        registry: Where the metrics are registered, once: a second `ClientTelemetry` needs
            another. None: prometheus_client's own.
        policy_metrics: What counts the policies' doings, when the program has one for policies
            of its own. None: one is made, in the registry.
        clock: What durations are measured with.

    Raises:
        ValueError: When the registry has such metrics already.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        registry: CollectorRegistry | None = None,
        policy_metrics: PolicyMetrics | None = None,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        registry = registry or REGISTRY
        self._tracer = trace.get_tracer("orderflow_client", tracer_provider=tracer_provider)
        self._policies = policy_metrics or PolicyMetrics(registry)
        self._calls = CallMetrics("client", registry)
        self._attempts = Counter(
            "grpc_client_attempts",
            "Attempts ended on the client, retries and hedges included, by how they ended.",
            [SERVICE_LABEL, METHOD_LABEL, CODE_LABEL],
            registry=registry,
        )
        self._clock = clock

    def of_channel(
        self, contract: Mapping[str, MethodContract], *, target: str, budget: RetryBudget
    ) -> ChannelTelemetry:
        """For `open_channel`: sees the calls of one channel, and shows its breakers and budget."""
        self._policies.watch_budget(budget, target)
        for service in {method.service for method in contract.values()}:
            self._policies.watch_breaker(breaker_name(target, service))
        records = ChannelRecords(
            contract,
            target=target,
            tracer=self._tracer,
            calls=self._calls,
            attempts=self._attempts,
            listener=self._policies,
            clock=self._clock,
        )
        return ChannelTelemetry(
            listener=records.on_event,
            around_calls=around_calls(records),
            around_attempts=around_attempts(records),
        )
