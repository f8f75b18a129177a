"""How spans and log lines leave the process: by OTLP over gRPC, to a collector.

OpenTelemetry's own variables in the environment say where to, and the SDK reads them itself:

    OTEL_EXPORTER_OTLP_ENDPOINT, ..._TRACES_..., ..._LOGS_...  nothing leaves without one
    OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG    which traces are kept; the default: all, or
                                                    what the caller has decided for its own
    OTEL_TRACES_EXPORTER=none                       no spans, whatever the endpoint
    OTEL_LOGS_EXPORTER=otlp                         log lines as well; they are on stdout anyway
    OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES     who this is
    OTEL_BSP_*, OTEL_BLRP_*                         the queues of spans and of log lines
    OTEL_SDK_DISABLED=true                          no spans at all, and no ids in the log

Nothing waits for the collector. What it does not take in time is dropped, the oldest first, when
the queue is full; `telemetry.quiet` says so once a minute.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import structlog
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from structlog.typing import Processor

from orderflow_server.telemetry.frugal import FrugalTracerProvider

log = structlog.get_logger("orderflow.telemetry")

FLUSH_S = 2.0
"""How long the end of the process waits for the collector, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """What is to be handed to whoever makes spans and log lines.

    Attributes:
        tracer_provider: Its spans have ids, for the logs and for other services, also when
            none of them is kept.
        logs: A processor for `configure_logs`; None when log lines stay here.
    """

    tracer_provider: TracerProvider
    logs: Processor | None


class _Stoppable(Protocol):
    def shutdown(self) -> None: ...


_Exporter = TypeVar("_Exporter")


@asynccontextmanager
async def open_exports(*, version: str, flush_s: float = FLUSH_S) -> AsyncIterator[Exports]:
    """Opens the way out; at the end it sends what is still waiting.

    Args:
        version: Of this service.
        flush_s: How long that may take, in seconds, for spans and again for log lines. What has
            not left by then is lost.

    Raises:
        ValueError: One of the variables cannot be read.
    """
    resource = _resource(version)
    traces = _leaves("TRACES")
    sampled = traces or os.environ.get("OTEL_TRACES_SAMPLER")
    provider = FrugalTracerProvider(
        # None: the SDK makes it of the environment.
        sampler=None if sampled else ALWAYS_OFF,
        resource=resource,
        # It would wait half a minute for a collector that does not answer.
        shutdown_on_exit=False,
    )
    async with AsyncExitStack() as stack:
        logs = None
        if _leaves("LOGS"):
            logs = await stack.enter_async_context(_exported_logs(resource, flush_s))
        if traces:
            await stack.enter_async_context(_exported_spans(provider, flush_s))
        yield Exports(tracer_provider=provider, logs=logs)


@asynccontextmanager
async def _exported_spans(provider: TracerProvider, flush_s: float) -> AsyncIterator[None]:
    # Here and below: a tenth of a second that a process without a collector starts sooner.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = _made(OTLPSpanExporter)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield
    finally:
        await _flush("spans", provider, exporter, flush_s)


@asynccontextmanager
async def _exported_logs(resource: Resource, flush_s: float) -> AsyncIterator[Processor]:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    from orderflow_server.telemetry.otlp_logs import OtlpLogs

    exporter = _made(OTLPLogExporter)
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    try:
        yield OtlpLogs(provider.get_logger("orderflow_server"))
    finally:
        await _flush("log lines", provider, exporter, flush_s)


def _made(exporter: Callable[[], _Exporter]) -> _Exporter:
    from opentelemetry.exporter.otlp.proto.grpc.exporter import InvalidCompressionValueException

    try:
        return exporter()
    except InvalidCompressionValueException as error:
        # Of all that the SDK reads, only this is no ValueError when it is wrong.
        raise ValueError(str(error)) from error


async def _flush(what: str, provider: _Stoppable, exporter: _Stoppable, flush_s: float) -> None:
    # In a thread: the event loop goes on meanwhile.
    flushing = asyncio.ensure_future(asyncio.to_thread(provider.shutdown))
    try:
        await asyncio.wait({flushing}, timeout=flush_s)
    finally:
        if not flushing.done():
            log.warning("the collector does not answer, telemetry is lost", lost=what)
            # It hangs up, and the thread finds nobody to wait for.
            exporter.shutdown()
    await flushing


def _leaves(signal: Literal["TRACES", "LOGS"]) -> bool:
    """Whether the environment says where to send a signal, and does not say not to."""
    env = os.environ
    exporters = env.get(f"OTEL_{signal}_EXPORTER") or ("otlp" if signal == "TRACES" else "none")
    return "otlp" in [name.strip() for name in exporters.split(",")] and bool(
        env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    )


def _resource(version: str) -> Resource:
    """Who sends: as the environment says, and ours where it says nothing."""
    ours = {
        "service.name": "orderflow-server",
        "service.version": version,
        "service.instance.id": str(uuid.uuid4()),
    }
    # Resource.create prefers what it is given to the environment.
    return Resource.create({**ours, **OTELResourceDetector().detect().attributes})
