"""Spans and log lines on their way to a collector that answers, hangs, or is not there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation

from fakes.logs import configure, logs_put_back
from fakes.otlp_receiver import OtlpReceiver, plain
from harness import create_request, running_service, until
from orderflow_server.telemetry.export import open_exports
from orderflow_server.telemetry.quiet import quiet_exporters
from processes import free_port

SECRET = "canary-4242"
QUEUE = 2048
BATCH = 512


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is set but what a test sets."""
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "LOGS_ENDPOINT", "TIMEOUT"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("TRACES_EXPORTER", "LOGS_EXPORTER", "TRACES_SAMPLER", "SDK_DISABLED"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    for name in ("SERVICE_NAME", "RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)
    return monkeypatch


@pytest.fixture
async def receiver(environment: pytest.MonkeyPatch) -> AsyncIterator[OtlpReceiver]:
    """A collector that the environment names."""
    async with OtlpReceiver() as running:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture
def absent(environment: pytest.MonkeyPatch) -> None:
    """The environment names a collector that is not there."""
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")


@pytest.fixture(autouse=True)
def unchanged_logs() -> Iterator[None]:
    with logs_put_back():
        quiet_exporters()
        yield


async def test_spans_arrive_and_say_who_sent_them(receiver: OtlpReceiver) -> None:
    async with open_exports(version="1.2.3") as exports:
        exports.tracer_provider.get_tracer("tests").start_span("GetOrder").end()
    assert [span.name for span in receiver.spans] == ["GetOrder"]
    who = plain(receiver.resources[0].attributes)
    assert (who["service.name"], who["service.version"]) == ("orderflow-server", "1.2.3")
    assert who["service.instance.id"]
    assert exports.logs is None


async def test_the_environment_says_better_who_this_is(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OTEL_SERVICE_NAME", "orders-eu")
    environment.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=9,deployment.zone=b")
    async with open_exports(version="1.2.3") as exports:
        exports.tracer_provider.get_tracer("tests").start_span("GetOrder").end()
    who = plain(receiver.resources[0].attributes)
    assert (who["service.name"], who["service.version"]) == ("orders-eu", "9")
    assert who["deployment.zone"] == "b"


async def test_without_a_collector_spans_have_ids_and_are_not_kept() -> None:
    async with open_exports(version="1") as exports:
        span = exports.tracer_provider.get_tracer("tests").start_span("GetOrder")
        assert span.get_span_context().is_valid
        assert not span.is_recording()


@pytest.mark.parametrize(
    ("sampler", "argument", "kept"),
    [
        ("always_on", "", True),
        ("always_off", "", False),
        ("parentbased_traceidratio", "0", False),
        ("parentbased_traceidratio", "1", True),
    ],
)
async def test_the_sampler_is_that_of_the_environment(
    environment: pytest.MonkeyPatch, sampler: str, argument: str, *, kept: bool
) -> None:
    environment.setenv("OTEL_TRACES_SAMPLER", sampler)
    environment.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    async with open_exports(version="1") as exports:
        span = exports.tracer_provider.get_tracer("tests").start_span("GetOrder")
        assert span.is_recording() is kept


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")]
)
async def test_spans_can_be_kept_from_leaving(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    async with open_exports(version="1") as exports:
        exports.tracer_provider.get_tracer("tests").start_span("GetOrder").end()
    assert receiver.asked == 0


@pytest.mark.parametrize("exporter", ["TRACES", "LOGS"])
async def test_a_variable_that_cannot_be_read_is_one_kind_of_error(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch, exporter: str
) -> None:
    """The SDK has a kind of its own for this one."""
    environment.setenv("OTEL_TRACES_EXPORTER", "none")
    environment.setenv(f"OTEL_{exporter}_EXPORTER", "otlp")
    environment.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "foo")
    with pytest.raises(ValueError, match="COMPRESSION"):
        async with open_exports(version="1"):
            pass


async def test_log_lines_arrive_with_their_span_and_without_secrets(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OTEL_LOGS_EXPORTER", "otlp")
    async with open_exports(version="1") as exports:
        configure(otlp=exports.logs)
        with exports.tracer_provider.get_tracer("tests").start_as_current_span("GetOrder") as span:
            structlog.get_logger().warning("ours", attempt=2, token=SECRET, causes=[{"type": "E"}])
            logging.getLogger("some.library").error("theirs of %s", f"password={SECRET}")
    ours, theirs = receiver.record("ours"), receiver.record("theirs of password=***")
    assert (ours.severity_text, ours.severity_number) == ("warning", 13)
    assert (theirs.severity_text, theirs.severity_number) == ("error", 17)
    assert plain(ours.attributes) == {"attempt": 2, "token": "***", "causes": [{"type": "E"}]}
    assert plain(theirs.attributes) == {"logger": "some.library"}
    identity = span.get_span_context()
    for record in (ours, theirs):
        assert record.trace_id.hex() == trace.format_trace_id(identity.trace_id)
        assert record.span_id.hex() == trace.format_span_id(identity.span_id)


async def test_a_line_that_no_record_can_hold_does_not_cost_the_others(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("OTEL_LOGS_EXPORTER", "otlp")
    async with open_exports(version="1") as exports:
        configure(otlp=exports.logs)
        log = structlog.get_logger()
        log.info("odd", number=2**70, path="\udcff", what=object, deep={1: (b"x", None)})
        log.info("caf\u00e9")
    assert receiver.bodies == ["odd", "caf\u00e9"]
    assert plain(receiver.record("odd").attributes) == {
        "number": str(2**70),
        "path": "\\udcff",
        "what": "<class 'object'>",
        "deep": {"1": ["b'x'", None]},
    }


async def test_what_exporters_say_is_not_exported(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("OTEL_LOGS_EXPORTER", "otlp")
    async with open_exports(version="1") as exports:
        lines = configure(otlp=exports.logs)
        name = "opentelemetry.exporter.otlp.proto.grpc.exporter"
        logging.getLogger(name).error("Failed to export")
        with suppress_instrumentation():  # as in their threads
            logging.getLogger("grpc").warning("no connection")
        structlog.get_logger().info("ours")
    lines.flush()
    assert receiver.bodies == ["ours"]
    written = capsys.readouterr().out
    assert "Failed to export" in written
    assert "no connection" in written


async def test_a_collector_that_hangs_holds_up_nobody_and_is_sent_the_newest_later(
    receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.clear()
    async with open_exports(version="1", flush_s=10) as exports:
        tracer = exports.tracer_provider.get_tracer("tests")
        for number in range(BATCH):
            tracer.start_span(str(number)).end()
        await until(lambda: receiver.asked)
        began_s = time.perf_counter()
        for number in range(50_000):
            tracer.start_span(str(number)).end()
        # 20 times what it takes here; waiting for the collector would take its 10 s.
        assert time.perf_counter() - began_s < 8
        receiver.answers.set()
    # What is not in the queue has been dropped, or was under way.
    assert len(receiver.spans) <= QUEUE + BATCH
    assert receiver.spans[-1].name == "49999"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_the_end_does_not_wait_for_a_collector_that_hangs(receiver: OtlpReceiver) -> None:
    receiver.answers.clear()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    with structlog.testing.capture_logs() as logs:
        async with open_exports(version="1", flush_s=0.3) as exports:
            tracer = exports.tracer_provider.get_tracer("tests")
            for number in range(QUEUE):
                tracer.start_span(str(number)).end()
            turning = asyncio.create_task(turn())
            began_s = time.perf_counter()
    took_s = time.perf_counter() - began_s
    turning.cancel()
    # The collector would be waited for 10 s.
    assert 0.3 <= took_s < 3
    assert turns >= 5
    [line] = logs
    assert (line["log_level"], line["lost"]) == ("warning", "spans")


async def test_a_collector_that_is_absent_is_one_warning_and_the_end_comes_in_time(
    absent: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_exports(version="1", flush_s=0.3) as exports:
        tracer = exports.tracer_provider.get_tracer("tests")
        for number in range(5000):
            tracer.start_span(str(number)).end()
        await until(lambda: caplog.records)
        began_s = time.perf_counter()
    assert time.perf_counter() - began_s < 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_calls_are_served_while_the_collector_hangs(
    receiver: OtlpReceiver, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("OTEL_LOGS_EXPORTER", "otlp")
    environment.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    environment.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    environment.setenv("OTEL_BLRP_MAX_QUEUE_SIZE", "64")
    environment.setenv("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "8")
    receiver.answers.clear()
    async with open_exports(version="1", flush_s=0.2) as exports:
        configure(otlp=exports.logs)
        async with running_service(tmp_path, tracer_provider=exports.tracer_provider) as service:
            for _ in range(5):
                await asyncio.gather(
                    *(service.stub.CreateOrder(create_request()) for _ in range(40))
                )
        assert receiver.asked == 2  # once for spans, once for log lines, both still under way
