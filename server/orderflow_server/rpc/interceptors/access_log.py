"""One log line per call but those shed, and the call's names on every line written during it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import structlog

from orderflow_client.resilience.limiter import Overloaded
from orderflow_client.status import brief
from orderflow_server.rpc.call import ServerCall

log = structlog.get_logger("orderflow.rpc")

_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_UNUSUAL = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
    }
)


@asynccontextmanager
async def access_log(call: ServerCall) -> AsyncIterator[None]:
    # Not unbound at the end: the RPC's context ends with its task.
    structlog.contextvars.bind_contextvars(
        request_id=call.request_id, trace_id=call.trace_id, method=call.method.name
    )
    try:
        yield
    finally:
        # Refusing a call must stay cheap, and a thousand lines a second say no more than their
        # number, which the limiter's listener writes.
        if not isinstance(call.error, Overloaded):
            _write(call)


def _write(call: ServerCall) -> None:
    fields = {
        "request_id": call.request_id,
        "trace_id": call.trace_id,
        "method": call.method.name,
        "code": call.code.name,
        "latency_ms": round((time.perf_counter() - call.started_s) * 1000, 2),
    }
    if call.reason:
        fields["reason"] = call.reason
    if call.code in _SERVER_FAULTS:
        log.error("call failed", cause=_cause(call.error), exc_info=call.error, **fields)
    elif call.code in _UNUSUAL:
        log.warning("call refused", cause=_cause(call.error), **fields)
    else:
        log.info("call", **fields)


def _cause(error: BaseException | None) -> str:
    """The whole chain of causes in one line, outermost first."""
    parts = []
    while error is not None:
        parts.append(brief(error))
        error = error.__cause__
    return " <- ".join(parts)
