"""Spans of traces that are not kept, without asking the SDK for each.

Most traces are not kept, but their ids are wanted all the same, for the log and for other services.
The SDK takes three times as long to find out that it has nothing to record as it takes here
to see that from the trace id. What is decided is the same, and of the same ids: the SDK is given
those that are kept.
"""

from __future__ import annotations

import random
import re
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

_RANDOM = TraceFlags(TraceFlags.RANDOM_TRACE_ID)
_LOWER_HALF = TraceIdRatioBased.TRACE_ID_LIMIT

_PARENT_BASED = re.compile(
    r"ParentBased\{root:(?:(?P<on>AlwaysOnSampler)|(?P<off>AlwaysOffSampler)"
    r"|TraceIdRatioBased\{(?P<ratio>[^}]+)\}),"
    r"remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,"
    r"localParentSampled:AlwaysOnSampler,localParentNotSampled:AlwaysOffSampler\}"
)
"""How a sampler says that it follows the parent, and what it does where there is none."""


class FrugalTracerProvider(TracerProvider):
    """The SDK's provider, whose tracers make most of the spans that are not kept themselves.

    Args:
        sampler: Decides. None: the SDK makes it of the environment. One that neither keeps nothing
            nor follows the parent is asked for every span.
        options: The SDK's.
    """

    def __init__(self, sampler: Sampler | None = None, **options: Any) -> None:
        self._ids = _PreparedIds()
        super().__init__(sampler=sampler, id_generator=self._ids, **options)

    def get_tracer(self, *args: Any, **options: Any) -> Tracer:
        tracer = super().get_tracer(*args, **options)
        description = self.sampler.get_description()
        if description == "AlwaysOffSampler":
            return _FrugalTracer(tracer, self._ids, bound=0, follows_parent=False)
        if (known := _PARENT_BASED.fullmatch(description)) is None:
            return tracer
        ratio = 1.0 if known["on"] else 0.0 if known["off"] else float(known["ratio"])
        bound = TraceIdRatioBased.get_bound_for_rate(ratio)
        return _FrugalTracer(tracer, self._ids, bound=bound, follows_parent=True)


class _PreparedIds(RandomIdGenerator):
    """Random ids, of which the next trace's may have been drawn already."""

    def __init__(self) -> None:
        self.next_trace_id = 0

    def generate_trace_id(self) -> int:
        drawn, self.next_trace_id = self.next_trace_id, 0
        return drawn or super().generate_trace_id()


class _FrugalTracer(Tracer):
    """Makes a span itself where it is plain that it is not kept.

    Args:
        tracer: The SDK's, for the others.
        ids: Where that takes its ids from.
        bound: A trace without a parent is kept when the lower half of its id is less.
        follows_parent: A span with a parent is kept when that is. Else it never is.
    """

    def __init__(
        self, tracer: Tracer, ids: _PreparedIds, *, bound: int, follows_parent: bool
    ) -> None:
        self._tracer = tracer
        self._ids = ids
        self._bound = bound
        self._follows_parent = follows_parent

    def start_span(
        self, name: str, context: Context | None = None, *args: Any, **options: Any
    ) -> Span:
        parent = _parent(context)
        if parent is not None:
            if parent.trace_flags & TraceFlags.SAMPLED and self._follows_parent:
                return self._tracer.start_span(name, context, *args, **options)
            trace_id, state = parent.trace_id, parent.trace_state
            flags = TraceFlags(parent.trace_flags & TraceFlags.RANDOM_TRACE_ID)
            span_id = self._ids.generate_span_id()
        else:
            trace_id = random.getrandbits(128)
            if trace_id & _LOWER_HALF < self._bound:
                self._ids.next_trace_id = trace_id
                return self._tracer.start_span(name, context, *args, **options)
            flags, state = _RANDOM, None
            span_id = random.getrandbits(64) or self._ids.generate_span_id()
        return NonRecordingSpan(SpanContext(trace_id, span_id, False, flags, state))

    def start_as_current_span(self, *args: Any, **options: Any) -> AbstractContextManager[Span]:  # type: ignore[override]  # the API's is a decorator too, which nobody uses
        return self._tracer.start_as_current_span(*args, **options)


def _parent(context: Context | None) -> SpanContext | None:
    if context is not None and not context:
        return None
    parent = trace.get_current_span(context).get_span_context()
    return parent if parent.is_valid else None
