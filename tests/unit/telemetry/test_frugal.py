"""Which spans are kept, and their ids, are what the SDK would have made of them."""

from __future__ import annotations

import random

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from orderflow_server.telemetry.frugal import FrugalTracerProvider

SAMPLERS = [
    ALWAYS_OFF,
    ALWAYS_ON,
    TraceIdRatioBased(0.5),
    ParentBased(ALWAYS_ON),
    ParentBased(ALWAYS_OFF),
    ParentBasedTraceIdRatio(0.5),
    ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF),
]
STATE = TraceState([("vendor", "x")])
PARENTS = [
    Context(),
    *(
        trace.set_span_in_context(
            NonRecordingSpan(SpanContext(1 << 100, 7, remote, TraceFlags(flags), STATE)), Context()
        )
        for remote in (False, True)
        for flags in (0, 1, 2, 3)
    ),
]


def provider(
    kind: type[TracerProvider], sampler: Sampler
) -> tuple[TracerProvider, InMemorySpanExporter]:
    made, exporter = kind(sampler=sampler, shutdown_on_exit=False), InMemorySpanExporter()
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made, exporter


@pytest.mark.parametrize("parent", PARENTS)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=Sampler.get_description)
def test_a_span_is_what_the_sdk_makes(sampler: Sampler, parent: Context) -> None:
    seen = []
    for kind in (TracerProvider, FrugalTracerProvider):
        random.seed(4)
        made, exporter = provider(kind, sampler)
        tracer = made.get_tracer("tests")
        spans = [tracer.start_span(f"span {number}", parent) for number in range(50)]
        for span in spans:
            span.end()
        seen.append(
            (
                [identity(span.get_span_context()) for span in spans],
                [span.is_recording() for span in spans],
                [(span.name, parent_of(span)) for span in exporter.get_finished_spans()],
            )
        )
    stock, frugal = seen
    assert frugal == stock


def identity(span: SpanContext) -> tuple[object, ...]:
    return (span.trace_id, span.span_id, span.is_remote, span.trace_flags, span.trace_state)


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def test_a_kept_trace_has_the_id_by_which_it_was_chosen() -> None:
    made, exporter = provider(FrugalTracerProvider, ParentBasedTraceIdRatio(0.1))
    tracer = made.get_tracer("tests")
    for _ in range(2000):
        tracer.start_span("root", Context()).end()
    kept = exporter.get_finished_spans()
    assert 100 < len(kept) < 300
    bound = TraceIdRatioBased.get_bound_for_rate(0.1)
    assert all(span.context.trace_id % 2**64 < bound for span in kept)


def test_a_block_with_a_span_follows_the_trace_around_it() -> None:
    made, exporter = provider(FrugalTracerProvider, ParentBased(ALWAYS_ON))
    tracer = made.get_tracer("tests")
    with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
        pass
    inner, outer = exporter.get_finished_spans()
    assert parent_of(inner) == outer.context.span_id
