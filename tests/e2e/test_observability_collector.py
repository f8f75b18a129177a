"""The collector with the project's own configuration: what it keeps, and where that goes."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from aiohttp import web
from deploy.outside import program, started, until_answered
from deploy.queries import DEPLOY
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from fakes.otlp_receiver import OtlpReceiver, plain
from harness import create_request, until
from orderflow.v1 import order_service_pb2_grpc
from processes import free_port, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DECISION_WAIT_S = 2
SECOND = 1_000_000_000
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class HttpSink:
    """Takes logs and metrics by OTLP over HTTP, as Loki and Prometheus do."""

    url: str = ""
    logs: list[tuple[dict[str, Any], LogRecord]] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)

    def lines(self, trace_id: str, event: str) -> list[tuple[dict[str, Any], LogRecord]]:
        """The log lines of a trace that say `event`, with who sent them."""
        return [
            (who, record)
            for who, record in self.logs
            if record.trace_id.hex() == trace_id and record.body.string_value == event
        ]

    def calls(self, method: str, code: str) -> float:
        """How many calls of the method ended so."""
        handled = self.metrics.get("grpc_server_handled_total", Metric())
        points = [(plain(point.attributes), point.as_double) for point in handled.sum.data_points]
        return sum(
            value
            for labels, value in points
            if (labels["grpc_method"], labels["grpc_code"]) == (method, code)
        )

    def exemplars(self, method: str) -> set[str]:
        """The traces that are examples of how long the method takes."""
        points = self.metrics["grpc_server_handling_seconds"].histogram.data_points
        return {
            exemplar.trace_id.hex()
            for point in points
            if plain(point.attributes)["grpc_method"] == method
            for exemplar in point.exemplars
        }

    async def take_logs(self, request: web.Request) -> web.Response:
        sent = ExportLogsServiceRequest.FromString(await request.read())
        for of_resource in sent.resource_logs:
            who = plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_logs:
                self.logs.extend((who, record) for record in of_scope.log_records)
        return web.Response(content_type="application/x-protobuf")

    async def take_metrics(self, request: web.Request) -> web.Response:
        sent = ExportMetricsServiceRequest.FromString(await request.read())
        for of_resource in sent.resource_metrics:
            self.jobs.add(plain(of_resource.resource.attributes)["service.name"])
            for of_scope in of_resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in of_scope.metrics}
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def http_sink() -> AsyncIterator[HttpSink]:
    sink = HttpSink()
    application = web.Application()
    application.router.add_post("/otlp/v1/logs", sink.take_logs)
    application.router.add_post("/api/v1/otlp/v1/metrics", sink.take_metrics)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield sink
    finally:
        await runner.cleanup()


@dataclass
class Pipeline:
    """A running collector and what it hands on to.

    Attributes:
        endpoint: Where it takes OTLP over gRPC, host:port.
        ops: The address that it scrapes, host:port.
    """

    endpoint: str
    ops: str
    jaeger: OtlpReceiver
    sink: HttpSink

    @property
    def kept(self) -> set[str]:
        """The traces that reached Jaeger."""
        return {span.trace_id.hex() for span in self.jaeger.spans}

    def server_spans(self, trace_id: str) -> list[Span]:
        return [
            span
            for span in self.jaeger.spans
            if span.trace_id.hex() == trace_id and span.kind == Span.SPAN_KIND_SERVER
        ]


@pytest.fixture
async def pipeline(tmp_path: Path) -> AsyncIterator[Pipeline]:
    collector = program("otelcol", "tools/collector.sh builds it where Go is present")
    endpoint, health, ops = (f"127.0.0.1:{free_port()}" for _ in range(3))
    async with OtlpReceiver() as jaeger, http_sink() as sink:
        environment = {
            "OTLP_LISTEN": endpoint,
            "HEALTH_LISTEN": health,
            "SELF_METRICS_PORT": str(free_port()),
            "JAEGER_ENDPOINT": jaeger.endpoint,
            "LOKI_ENDPOINT": f"{sink.url}/otlp",
            "METRICS_ENDPOINT": f"{sink.url}/api/v1/otlp",
            "SCRAPE_TARGETS": f'["{ops}"]',
            "SCRAPE_INTERVAL": "500ms",
            "SAMPLING_DECISION_WAIT": f"{DECISION_WAIT_S}s",
        }
        async with started(
            collector,
            *("--config", str(DEPLOY / "collector" / "config.yaml")),
            *("--config", str(DEPLOY / "collector" / "metrics.yaml")),
            log=tmp_path / "collector.log",
            environment=environment,
        ) as process:
            await until_answered(f"http://{health}/", process)
            yield Pipeline(endpoint, ops, jaeger, sink)


def spans(
    count: int, random: Random, *, method: str, seconds: float, error: bool = False
) -> list[Span]:
    """Spans of as many traces; their ids, and so the sampling, are the same in each run."""
    code = Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_UNSET
    return [
        Span(
            trace_id=random.randbytes(16),
            span_id=random.randbytes(8),
            name=f"orderflow.v1.OrderService/{method}",
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=SECOND,
            end_time_unix_nano=SECOND + int(seconds * SECOND),
            attributes=[KeyValue(key="rpc.method", value=AnyValue(string_value=method))],
            status=Status(code=code),
        )
        for _ in range(count)
    ]


def traces(some: list[Span]) -> set[str]:
    return {span.trace_id.hex() for span in some}


async def send(endpoint: str, some: list[Span]) -> None:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        # The library carries no types.
        stub = trace_service_pb2_grpc.TraceServiceStub(channel)  # type: ignore[no-untyped-call]
        await stub.Export(
            ExportTraceServiceRequest(
                resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=some)])]
            )
        )


async def test_errors_and_slow_calls_are_kept_and_a_tenth_of_the_rest(pipeline: Pipeline) -> None:
    random = Random(1)
    failed = spans(20, random, method="CreateOrder", seconds=0.01, error=True)
    slow = spans(20, random, method="CreateOrder", seconds=1.5)
    ordinary = spans(400, random, method="GetOrder", seconds=0.01)
    watches = spans(100, random, method="WatchOrder", seconds=60)
    await send(pipeline.endpoint, [*failed, *slow, *ordinary, *watches])
    await until(lambda: traces(failed) | traces(slow) <= pipeline.kept, timeout_s=20)
    # What comes last is decided last.
    last = spans(1, random, method="CreateOrder", seconds=0.01, error=True)
    await send(pipeline.endpoint, last)
    await until(lambda: traces(last) <= pipeline.kept, timeout_s=20)
    assert 20 <= len(traces(ordinary) & pipeline.kept) <= 80
    assert len(traces(watches) & pipeline.kept) <= 25


async def test_the_three_signals_of_a_call_arrive_and_agree(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{pipeline.endpoint}",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BLRP_SCHEDULE_DELAY": "100",
    }
    async with (
        server_process(
            tmp_path, arguments=["--ops-address", pipeline.ops], environment=environment
        ) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        with write_lock(tmp_path / "orders.db"), pytest.raises(grpc.aio.AioRpcError) as caught:
            await order_service_pb2_grpc.OrderServiceStub(channel).CreateOrder(
                create_request(),
                timeout=0.5,
                metadata=[("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "e2e-1")],
            )
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        await until(lambda: pipeline.server_spans(TRACE), timeout_s=20)
        [span] = pipeline.server_spans(TRACE)
        assert span.name == "orderflow.v1.OrderService/CreateOrder"
        assert span.parent_span_id.hex() == PARENT
        assert span.status.code == Status.STATUS_CODE_ERROR
        assert plain(span.attributes)["rpc.grpc.status_code"] == 4

        await until(lambda: pipeline.sink.lines(TRACE, "call refused"), timeout_s=20)
        [(who, line)] = pipeline.sink.lines(TRACE, "call refused")
        assert line.span_id == span.span_id
        said = plain(line.attributes)
        assert (said["code"], said["request_id"]) == ("DEADLINE_EXCEEDED", "e2e-1")
        assert who["service.name"] == "orderflow-server"

        await until(lambda: pipeline.sink.calls("CreateOrder", "DEADLINE_EXCEEDED"), timeout_s=20)
        assert pipeline.sink.calls("CreateOrder", "DEADLINE_EXCEEDED") == 1
        assert TRACE in pipeline.sink.exemplars("CreateOrder")
        assert pipeline.sink.jobs == {"orderflow"}


@contextmanager
def write_lock(database: Path) -> Iterator[None]:
    """Nobody else can write to the database meanwhile."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
    finally:
        connection.close()
