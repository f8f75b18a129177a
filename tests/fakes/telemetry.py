"""Where calls are seen in tests: spans and metrics kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from prometheus_client import CollectorRegistry

from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_server.rpc.server import CallTelemetry


@dataclass
class Seen:
    """Spans that are handed over when they end, and a registry of its own."""

    sampler: Sampler = ALWAYS_ON
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=self.sampler, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """The spans that have ended, in that order."""
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    def sample(self, name: str, **labels: str) -> float:
        """The value of a metric; 0 when there is none such."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def call_telemetry(self, *, slow_call_s: float = 5.0) -> CallTelemetry:
        return CallTelemetry(
            tracer=self.tracer_provider.get_tracer("tests"),
            metrics=CallMetrics("server", self.registry),
            slow_call_s=slow_call_s,
        )
