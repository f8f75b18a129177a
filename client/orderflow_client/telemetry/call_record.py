"""A call as its span, its metrics and its log line tell it: one object, which ends once.

Each of them gets its ending from `end`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import grpc
from opentelemetry import context, trace
from opentelemetry.trace import Span, Status, StatusCode
from prometheus_client import Counter

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import HedgeStarted, RetryScheduled
from orderflow_client.telemetry.call_log import level_of, log, log_call
from orderflow_client.telemetry.call_metrics import MethodMetrics
from orderflow_client.telemetry.conventions import (
    ATTEMPT,
    ATTEMPT_DELAY_MS,
    ATTEMPT_HEDGE,
    CAUSE,
    ERROR_TYPE,
    HEDGE_STARTED,
    REASON,
    RETRY_SCHEDULED,
    RPC_STATUS_CODE,
    SERVICE_LABEL,
    SPAN_ID,
    TRACE_ID,
)
from orderflow_client.telemetry.ending import Ending, ending_of_call, ending_of_error

# A call has a task of its own, or puts back what it found here: none sees what belongs to another.
call_under_way: ContextVar[CallRecord | None] = ContextVar("orderflow_call", default=None)
next_attempt: ContextVar[AttemptOrigin] = ContextVar("orderflow_attempt")
"""Why the next attempt is made; set for as long as a call is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRecord:
    """What all calls of one method have in common.

    Attributes:
        service: `package.Service`.
        name: The method's own.
        full_name: `package.Service/Method`, as spans are called.
        metrics: Counts the calls.
        attempts: Counts the attempts, by their status.
        attributes: Of every span.
        breaker: The name of the breaker that lets the attempts through. Empty: none does.
    """

    service: str
    name: str
    full_name: str
    metrics: MethodMetrics
    attempts: Mapping[grpc.StatusCode, Counter]
    attributes: Mapping[str, str]
    breaker: str


class CallRecord:
    """One call, all its attempts included.

    Args:
        method: What is called.
        span: Of the call; has begun.
        clock: What its duration is measured with.
    """

    __slots__ = ("_clock", "_ended", "_retries", "_started_s", "attempts", "method", "span")

    def __init__(self, method: MethodRecord, span: Span, *, clock: MonotonicClock) -> None:
        self.method = method
        self.span = span
        self.attempts = 0
        """How many were made so far."""
        self._retries = 0
        self._ended = False
        self._clock = clock
        self._started_s = clock()
        method.metrics.started()

    def retrying(self, event: RetryScheduled) -> None:
        self._retries += 1
        if self.span.is_recording():
            self.span.add_event(
                RETRY_SCHEDULED,
                {
                    ATTEMPT: event.attempt,
                    ATTEMPT_DELAY_MS: round(event.delay_s * 1000),
                    CAUSE: str(ending_of_error(event.cause)),
                },
            )

    def hedging(self, event: HedgeStarted) -> None:
        if self.span.is_recording():
            attributes: dict[str, str | int] = {ATTEMPT: event.attempt}
            if event.cause is not None:
                attributes[CAUSE] = str(ending_of_error(event.cause))
            self.span.add_event(HEDGE_STARTED, attributes)

    def end(self, ending: Ending) -> None:
        """The call has ended. Told again, it changes nothing."""
        if self._ended:
            return
        self._ended = True
        duration_s = self._clock() - self._started_s
        end_span(self.span, ending)
        identity = self.span.get_span_context()
        trace_id = trace.format_trace_id(identity.trace_id) if identity.is_valid else ""
        self.method.metrics.handled(
            ending.code, duration_s, trace_id=trace_id if identity.trace_flags.sampled else ""
        )
        level = level_of(ending, retried=self._retries > 0, sent=self.attempts > 0)
        if not log.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            SERVICE_LABEL: self.method.service,
            "method": self.method.name,
            "code": ending.code.name,
            "latency_ms": round(duration_s * 1000, 3),
            "attempts": self.attempts,
        }
        if ending.reason:
            fields["reason"] = ending.reason
        if ending.error_type:
            fields["error_type"] = ending.error_type
        if trace_id:
            fields[TRACE_ID] = trace_id
            fields[SPAN_ID] = trace.format_span_id(identity.span_id)
        # A stream ends wherever gRPC says so, outside its span.
        token = context.attach(trace.set_span_in_context(self.span))
        try:
            log_call(level, self.method.full_name, ending, fields)
        finally:
            context.detach(token)


@dataclass(frozen=True, slots=True)
class AttemptOrigin:
    """Why an attempt is made.

    Attributes:
        delay_s: How long the call waited since the attempt before failed. None: it did not.
        hedge: It is raced with one under way.
    """

    delay_s: float | None = None
    hedge: bool = False


class AttemptRecord:
    """One attempt of a call.

    Args:
        call: Whose it is.
        span: Of the attempt; has begun. None: the call's is not kept, so it needs none of its own.
    """

    __slots__ = ("_call", "_ended", "_span")

    def __init__(self, call: CallRecord, span: Span | None) -> None:
        self._call = call
        self._span = span
        self._ended = False

    @property
    def span(self) -> Span:
        """The one that the server's becomes a child of."""
        return self._span or self._call.span

    def end(self, ending: Ending) -> None:
        """The attempt has ended. Told again, it changes nothing."""
        if self._ended:
            return
        self._ended = True
        if self._span is not None:
            end_span(self._span, ending)
        self._call.method.attempts[ending.code].inc()

    def end_with_call(self, call: grpc.aio.Call) -> None:
        """The done callback of a call that is not repeated: its only attempt is all of it."""
        ending = ending_of_call(call)
        self.end(ending)
        self._call.end(ending)


def end_span(span: Span, ending: Ending) -> None:
    """Ends a client's span: every status but OK is an error."""
    if span.is_recording():
        span.set_attribute(RPC_STATUS_CODE, ending.code.value[0])
        if ending.code is not grpc.StatusCode.OK:
            if ending.reason:
                span.set_attribute(REASON, ending.reason)
            if ending.error_type:
                span.set_attribute(ERROR_TYPE, ending.error_type)
            span.set_status(Status(StatusCode.ERROR, str(ending)))
    span.end()


def attempt_attributes(number: int, origin: AttemptOrigin) -> dict[str, str | int | bool]:
    """What a span says of its attempt."""
    attributes: dict[str, str | int | bool] = {ATTEMPT: number, ATTEMPT_HEDGE: origin.hedge}
    if origin.delay_s is not None:
        attributes[ATTEMPT_DELAY_MS] = round(origin.delay_s * 1000)
    return attributes
