"""A collector that is away is one warning a minute."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.exporter.otlp.proto.grpc import exporter
from opentelemetry.sdk import _shared_internal

from fakes.logs import logs_put_back
from orderflow_server.telemetry.quiet import OnceAMinute, quiet_exporters

# The modules, as they put filters of their own on their loggers.
EXPORTER = logging.getLogger(exporter.__name__)
QUEUE = logging.getLogger(_shared_internal.__name__)


def record(level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("otel", level, __file__, 1, "Failed to export", None, None)


def test_one_record_a_minute_which_tells_how_many_were_held_back() -> None:
    now_s = 1000.0
    quiet = OnceAMinute(clock=lambda: now_s)
    first, last = record(), record()
    assert quiet.filter(first)
    assert not any(quiet.filter(record()) for _ in range(7))
    now_s += 59.9
    assert not quiet.filter(record())
    now_s += 0.1
    assert quiet.filter(last)
    assert (vars(first)["held_back"], vars(last)["held_back"]) == (0, 8)
    now_s += 60.0
    quiet_again = record()
    assert quiet.filter(quiet_again)
    assert vars(quiet_again)["held_back"] == 0


def test_an_error_of_an_exporter_is_a_warning_here() -> None:
    failed = record(logging.ERROR)
    assert OnceAMinute().filter(failed)
    assert (failed.levelno, failed.levelname) == (logging.WARNING, "WARNING")


def test_what_is_no_warning_passes_and_counts_nothing() -> None:
    quiet = OnceAMinute(clock=lambda: 0.0)
    assert quiet.filter(record(logging.DEBUG))
    assert quiet.filter(record(logging.DEBUG))
    first = record()
    assert quiet.filter(first)
    assert vars(first)["held_back"] == 0


def test_the_exporters_and_their_queues_count_as_one(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    with logs_put_back():
        quiet_exporters(clock=lambda: now_s)
        for _ in range(3):
            EXPORTER.error("Failed to export")
            QUEUE.warning("Queue full, dropping Span.")
        now_s = 60.0
        QUEUE.warning("Queue full, dropping Span.")
    assert [record.held_back for record in caplog.records] == [0, 5]  # type: ignore[attr-defined]  # set by the filter
