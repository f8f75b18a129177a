from __future__ import annotations

import logging

import grpc
import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter

from fakes.telemetry import Seen
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_client.telemetry.call_record import AttemptRecord, CallRecord, MethodRecord
from orderflow_client.telemetry.ending import OK, Ending

LABELS = {"grpc_service": "s", "grpc_method": "m"}
NOT_FOUND = Ending(grpc.StatusCode.NOT_FOUND, "ORDER_NOT_FOUND")


@pytest.fixture
def seen() -> Seen:
    return Seen()


def method(registry: CollectorRegistry) -> MethodRecord:
    attempts = Counter(
        "attempts", "Attempts.", ["grpc_service", "grpc_method", "grpc_code"], registry=registry
    )
    return MethodRecord(
        service="s",
        name="m",
        full_name="s/m",
        metrics=CallMetrics("client", registry).of(grpc_type="unary", service="s", method="m"),
        attempts={code: attempts.labels("s", "m", code.name) for code in grpc.StatusCode},
        attributes={},
        breaker="",
    )


@pytest.fixture
def call(seen: Seen) -> CallRecord:
    span = seen.tracer_provider.get_tracer("tests").start_span("call")
    times_s = iter([10.0, 10.25])
    return CallRecord(method(seen.registry), span, clock=lambda: next(times_s))


def test_a_call_ends_once(seen: Seen, call: CallRecord, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "orderflow_client.calls")
    call.end(NOT_FOUND)
    call.end(OK)
    [span] = seen.spans
    assert span.status.description == "NOT_FOUND ORDER_NOT_FOUND"
    ended = "grpc_client_handled_total"
    assert seen.sample(ended, grpc_type="unary", grpc_code="NOT_FOUND", **LABELS) == 1
    assert seen.sample(ended, grpc_type="unary", grpc_code="OK", **LABELS) == 0
    assert len(caplog.records) == 1


def test_an_attempt_ends_once(seen: Seen, call: CallRecord) -> None:
    attempt = AttemptRecord(call, seen.tracer_provider.get_tracer("tests").start_span("attempt"))
    attempt.end(NOT_FOUND)
    attempt.end(OK)
    [span] = seen.spans
    assert span.status.description == "NOT_FOUND ORDER_NOT_FOUND"
    assert seen.sample("attempts_total", grpc_code="NOT_FOUND", **LABELS) == 1
    assert seen.sample("attempts_total", grpc_code="OK", **LABELS) == 0


def test_the_line_is_written_within_the_span_wherever_the_call_ends(call: CallRecord) -> None:
    within: list[trace.Span] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            within.append(trace.get_current_span())

    handler = Handler()
    log = logging.getLogger("orderflow_client.calls")
    log.addHandler(handler)
    try:
        call.end(Ending(grpc.StatusCode.UNAVAILABLE))
    finally:
        log.removeHandler(handler)
    assert within == [call.span]
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_line_and_the_histogram_tell_how_long_it_took(
    seen: Seen, call: CallRecord, caplog: pytest.LogCaptureFixture
) -> None:
    call.end(Ending(grpc.StatusCode.UNAVAILABLE))
    [line] = caplog.records
    assert vars(line)["latency_ms"] == 250
    assert seen.sample("grpc_client_handling_seconds_sum", grpc_type="unary", **LABELS) == 0.25
