"""The line that is made by hand is, byte for byte, what the logger makes of the same event."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext

from fakes.logs import configure, logs_put_back
from orderflow_server.telemetry.call_line import CallLine
from orderflow_server.telemetry.correlation import SPAN
from orderflow_server.telemetry.line_writer import FileSink
from orderflow_server.telemetry.lines import Lines
from orderflow_server.telemetry.logs import json_line

SPAN_CONTEXT = SpanContext(1 << 100, 7, is_remote=False)
REQUEST_IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda drawn: drawn.hex),
    st.text(min_size=1, max_size=128),
    st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=16),
    st.text("aZ0-_.:=/@\"'\\ é", min_size=1, max_size=16),
    st.sampled_from(
        ["token=abc", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln", "a:/b:c@d", "\u0661"]
    ),
)


def written(at_us: int, request_id: str, method: str, latency_ms: float, span: SpanContext) -> str:
    file = io.StringIO()
    # Without an event loop a line is written at once.
    write = CallLine(Lines(FileSink(file)), json_line, now_ns=lambda: at_us * 1000 + 999)
    write(request_id, method, latency_ms, span)
    return file.getvalue()


@given(
    at_us=st.integers(0, 4_000_000_000_000_000),
    request_id=REQUEST_IDS,
    method=st.from_regex(r"[A-Z][A-Za-z0-9_]{0,20}", fullmatch=True),
    hundredths=st.integers(0, 10**12),
    span=st.one_of(
        st.just(INVALID_SPAN_CONTEXT),
        st.builds(
            SpanContext, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.just(value=False)
        ),
    ),
)
@example(1_700_000_000_000_000, "a-1", "GetOrder", 25, SPAN_CONTEXT)
@example(1_700_000_000_000_001, "a-1", "GetOrder", 0, SPAN_CONTEXT)
def test_it_says_what_the_logger_says(
    at_us: int, request_id: str, method: str, hundredths: int, span: SpanContext
) -> None:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    latency_ms = hundredths / 100
    general = json_line(
        {
            "event": "call",
            "level": "info",
            "timestamp": at,
            SPAN: span,
            "request_id": request_id,
            "method": method,
            "code": "OK",
            "latency_ms": latency_ms,
        }
    )
    assert written(at_us, request_id, method, latency_ms, span) == f"{general}\n"


def test_seconds_pass() -> None:
    file = io.StringIO()
    times_ns = iter([1_700_000_000_000_001_000, 1_700_000_059_000_002_000])
    write = CallLine(Lines(FileSink(file)), json_line, now_ns=lambda: next(times_ns))
    for _ in range(2):
        write("r", "GetOrder", 1.5, SPAN_CONTEXT)
    first, second = file.getvalue().splitlines()
    assert '"timestamp":"2023-11-14T22:13:20.000001Z"' in first
    assert '"timestamp":"2023-11-14T22:14:19.000002Z"' in second


def test_a_secret_in_a_request_id_is_not_written() -> None:
    line = written(1, "password=canary-4242", "GetOrder", 1.5, SPAN_CONTEXT)
    assert "canary-4242" not in line
    assert '"request_id":"password=***"' in line


@pytest.mark.parametrize(
    ("form", "level", "by_hand"),
    [("json", "debug", True), ("json", "warning", False), ("console", "info", False)],
)
def test_which_logs_have_it(form: str, level: str, *, by_hand: bool) -> None:
    with logs_put_back():
        configure(form=form, level=level)  # type: ignore[arg-type]  # one of those it takes
        log = structlog.get_logger().bind()
        assert (log.call_line is not None) is by_hand


def test_logs_that_leave_by_otlp_do_not() -> None:
    with logs_put_back():
        configure(otlp=lambda _logger, _method, event: event)
        assert structlog.get_logger().bind().call_line is None


def test_the_logger_and_the_hand_note_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """That the event compared above is the one that the logger notes."""
    with logs_put_back(), trace.use_span(NonRecordingSpan(SPAN_CONTEXT)):
        configure()
        log = structlog.get_logger().bind()
        log.info("call", request_id="r-1", method="GetOrder", code="OK", latency_ms=1.5)
        log.call_line("r-1", "GetOrder", 1.5, SPAN_CONTEXT)
    logger, hand = (
        line.split('"timestamp":', 1)[1].split(",", 1)[1]
        for line in capsys.readouterr().out.splitlines()
    )
    assert hand == logger
