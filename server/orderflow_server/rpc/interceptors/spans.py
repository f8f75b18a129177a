"""One span per call, which ends with the status that the caller gets."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.grpc._aio_server import OpenTelemetryAioServerInterceptor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from orderflow_client.telemetry import conventions
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Operation

_NO_TRACE = Context()
# OpenTelemetry's own name of the span in a context. To put it there by its function takes two
# copies of the context.
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, _NO_TRACE)
# To look a member up in its enumeration takes as long as a call.
_SERVER = SpanKind.SERVER


class ServerSpans(OpenTelemetryAioServerInterceptor):
    """The library's interceptor, as one of the chain's, which keeps the handler's kind.

    Repaired besides (opentelemetry-instrumentation-grpc 0.66b2): an uncaught exception, a
    deadline, a cancellation and an `abort_with_status` were all OK; every abort was two exceptions;
    what an exception says, secrets included, was in the span; and most of the time went into
    attributes of spans that nobody keeps.

    Args:
        tracer: Makes the spans.
    """

    def __init__(self, tracer: Tracer) -> None:
        # The library carries no types.
        super().__init__(tracer)  # type: ignore[no-untyped-call]
        # Of the caller's metadata, those that name its trace.
        self._fields = frozenset(propagate.get_global_textmap().fields)

    def __call__(self, call: ServerCall, proceed: Operation) -> Awaitable[Any]:
        begun_in = self._begun_in(call)
        span: Span = self._tracer.start_span(call.method.full_name, begun_in, _SERVER)
        call.span = span.get_span_context()
        # Not taken back at the end: the RPC's context ends with its task.
        context.attach(Context({**begun_in, _SPAN_KEY: span}))
        call.kept = span.is_recording()
        return _recorded(span, call, proceed) if call.kept else proceed(call)

    def _begun_in(self, call: ServerCall) -> Context:
        for key, _ in call.metadata:
            if key in self._fields:
                return propagate.extract(dict(call.metadata), Context())
        return _NO_TRACE


async def _recorded(span: Span, call: ServerCall, proceed: Operation) -> Any:
    span.set_attributes(_attributes(call))
    try:
        return await proceed(call)
    except BaseException as error:
        call.settle(error)
        raise
    finally:
        _finish(span, call)


def _attributes(call: ServerCall) -> Mapping[str, str]:
    # Few: to encode one takes as long as a fifth of the span without any.
    attributes = {
        conventions.RPC_SYSTEM: "grpc",
        conventions.RPC_SERVICE: call.method.service,
        conventions.RPC_METHOD: call.method.name,
        conventions.REQUEST_ID: call.request_id,
    }
    # ipv4:127.0.0.1:57284, ipv6:[::1]:57284 (its brackets as %5B and %5D), unix:...
    kind, _, rest = unquote(call.context.peer()).partition(":")
    if kind in {"ipv4", "ipv6"}:
        attributes[conventions.CLIENT_ADDRESS] = rest.rpartition(":")[0].strip("[]")
    return attributes


def _finish(span: Span, call: ServerCall) -> None:
    span.set_attribute(conventions.RPC_STATUS_CODE, call.code.value[0])
    if call.code is not grpc.StatusCode.OK:
        if call.reason:
            span.set_attribute(conventions.REASON, call.reason)
        if call.error is not None:
            # Its type only: what it says is for the log, which keeps secrets out.
            span.set_attribute(conventions.ERROR_TYPE, type(call.error).__qualname__)
        if call.code in conventions.SERVER_ERRORS:
            span.set_status(Status(StatusCode.ERROR, f"{call.code.name} {call.reason}".rstrip()))
    span.end()
