"""The calls of one channel, as they are seen."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from opentelemetry.trace import SpanKind, Tracer
from prometheus_client import Counter

from orderflow_client.contract import MethodContract
from orderflow_client.method_policies import breaker_name
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import (
    BreakerChanged,
    BreakerState,
    HedgeStarted,
    Listener,
    PolicyEvent,
    RetryScheduled,
)
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_client.telemetry.call_record import (
    AttemptOrigin,
    AttemptRecord,
    CallRecord,
    MethodRecord,
    attempt_attributes,
    call_under_way,
    next_attempt,
)
from orderflow_client.telemetry.conventions import (
    BREAKER_STATE,
    RPC_METHOD,
    RPC_SERVICE,
    RPC_SYSTEM,
)


class ChannelRecords:
    """Begins the records of a channel's calls and attempts, and listens to its policies.

    Args:
        contract: The channel's.
        target: What the channel leads to, as its breakers have it in their names.
        tracer: Makes the spans.
        calls: Counts the calls.
        attempts: Counts the attempts, by service, method and code.
        listener: What else is told of what the policies do.
        clock: What durations are measured with.
    """

    def __init__(
        self,
        contract: Mapping[str, MethodContract],
        *,
        target: str,
        tracer: Tracer,
        calls: CallMetrics,
        attempts: Counter,
        listener: Listener,
        clock: MonotonicClock,
    ) -> None:
        self._contract = contract
        self._target = target
        self.tracer = tracer
        self._calls = calls
        self._attempts = attempts
        self._listener = listener
        self._clock = clock
        self._methods: dict[str, MethodRecord] = {}
        self._breakers: dict[str, BreakerState] = {}

    def on_event(self, event: PolicyEvent) -> None:
        """The listener, called in the context of the call that the event is about."""
        self._listener(event)
        call = call_under_way.get()
        match event:
            case BreakerChanged():
                self._breakers[event.name] = event.new
            case RetryScheduled() if call is not None:
                next_attempt.set(AttemptOrigin(delay_s=event.delay_s))
                call.retrying(event)
            case HedgeStarted() if call is not None:
                next_attempt.set(AttemptOrigin(hedge=True))
                call.hedging(event)

    def begin_call(self, path: str, grpc_type: str) -> CallRecord:
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = self._method(path, grpc_type)
        span = self.tracer.start_span(
            method.full_name, kind=SpanKind.CLIENT, attributes=method.attributes
        )
        return CallRecord(method, span, clock=self._clock)

    def begin_attempt(self, call: CallRecord) -> AttemptRecord:
        """Begins the next attempt of a call; its span is a child of the current one, the call's."""
        call.attempts += 1
        if not call.span.is_recording():
            return AttemptRecord(call, None)
        method = call.method
        attributes = attempt_attributes(call.attempts, next_attempt.get())
        if method.breaker:
            attributes[BREAKER_STATE] = self._breakers.get(
                method.breaker, BreakerState.CLOSED
            ).value
        span = self.tracer.start_span(
            f"{method.full_name} attempt",
            kind=SpanKind.CLIENT,
            attributes={**method.attributes, **attributes},
        )
        return AttemptRecord(call, span)

    def _method(self, path: str, grpc_type: str) -> MethodRecord:
        _, service, name = path.split("/")
        return MethodRecord(
            service=service,
            name=name,
            full_name=f"{service}/{name}",
            metrics=self._calls.of(grpc_type=grpc_type, service=service, method=name),
            attempts={
                code: self._attempts.labels(service, name, code.name) for code in grpc.StatusCode
            },
            attributes={RPC_SYSTEM: "grpc", RPC_SERVICE: service, RPC_METHOD: name},
            breaker=breaker_name(self._target, service) if path in self._contract else "",
        )
