"""A collector: takes spans and log records by OTLP over gRPC, and is as bad at it as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver:
    """Listens on a free loopback port while it is entered.

    Attributes:
        answers: Clear: it takes what is sent and does not answer until this is set.
        asked: How many times it was sent something.
    """

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self.resources: list[Resource] = []
        self.spans: list[Span] = []
        self.records: list[LogRecord] = []

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        # The library carries no types.
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            _Traces(self), self._server
        )
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(  # type: ignore[no-untyped-call]
            _Logs(self), self._server
        )
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop(None)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def bodies(self) -> list[str]:
        return [record.body.string_value for record in self.records]

    def record(self, body: str) -> LogRecord:
        """The one record with that body."""
        [found] = [record for record in self.records if record.body.string_value == body]
        return found

    async def arrived(self) -> None:
        self.asked += 1
        await self.answers.wait()


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def Export(  # noqa: N802  the contract's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: Any
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        await self._receiver.arrived()
        for of_resource in request.resource_spans:
            self._receiver.resources.append(of_resource.resource)
            for of_scope in of_resource.scope_spans:
                self._receiver.spans.extend(of_scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    async def Export(  # noqa: N802  the contract's name
        self, request: logs_service_pb2.ExportLogsServiceRequest, context: Any
    ) -> logs_service_pb2.ExportLogsServiceResponse:
        await self._receiver.arrived()
        for of_resource in request.resource_logs:
            self._receiver.resources.append(of_resource.resource)
            for of_scope in of_resource.scope_logs:
                self._receiver.records.extend(of_scope.log_records)
        return logs_service_pb2.ExportLogsServiceResponse()


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as they were before they were sent."""
    return dict(_pairs(attributes))


def _pairs(attributes: list[KeyValue]) -> Iterator[tuple[str, Any]]:
    for attribute in attributes:
        yield attribute.key, _value(attribute.value)


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(inner) for inner in value.array_value.values]
    if kind == "kvlist_value":
        return plain(value.kvlist_value.values)
    return getattr(value, kind)
