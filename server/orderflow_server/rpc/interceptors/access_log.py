"""One log line per call but those shed, and the call's names on every line written during it."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import grpc
import structlog
from structlog.typing import FilteringBoundLogger as BoundLogger

from orderflow_client.resilience.limiter import Overloaded
from orderflow_server.rpc.call import OK, UNKNOWN_METHOD, ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation
from orderflow_server.security.rate_limit import RateLimited
from orderflow_server.telemetry.call_line import CallLine
from orderflow_server.telemetry.causes import causes
from orderflow_server.telemetry.correlation import call_names

_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_COUNTED = (Overloaded, RateLimited)
_UNUSUAL = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
    }
)


def access_log(*, slow_call_s: float, streams: Collection[str] = ()) -> Interceptor:
    """Makes the interceptor.

    Args:
        slow_call_s: A call that takes longer is a warning, seconds.
        streams: The paths of the methods for which it is not: a watch lasts as long as it is
            watched.
    """
    streams = frozenset(streams)
    # Bound once, not looked up again for every line.
    log: BoundLogger = structlog.get_logger("orderflow.rpc").bind()
    # Of the logs as the service sets them up; None for lines in another form than JSON.
    call_line: CallLine | None = getattr(log, "call_line", None)

    async def write_line(call: ServerCall, proceed: Operation) -> Any:
        # Not taken back at the end: the RPC's context ends with its task. The ids of the trace
        # come from the span.
        call_names.set({"request_id": call.request_id, "method": call.method.name})
        try:
            return await proceed(call)
        except BaseException as error:
            call.settle(error)
            raise
        finally:
            # Refusing a call must stay cheap, and a thousand lines a second say no more than their
            # number, which the limiter's listener writes, and the rate limit itself.
            if not isinstance(call.error, _COUNTED):
                latency_s = time.perf_counter() - call.started_s
                slow = latency_s > slow_call_s and call.method.path not in streams
                # To hundredths; round() takes twice as long.
                latency_ms = int(latency_s * 1e5) / 100
                if call.code is OK and not slow and call_line is not None:
                    call_line(call.request_id, call.method.name, latency_ms, call.span)
                else:
                    _write(log, call, latency_ms, slow=slow)

    return write_line


def _write(log: BoundLogger, call: ServerCall, latency_ms: float, *, slow: bool) -> None:
    if call.code is OK:
        write = log.warning if slow else log.info
        write("slow call" if slow else "call", code="OK", latency_ms=latency_ms)
        return
    fields: dict[str, Any] = {"code": call.code.name, "latency_ms": latency_ms}
    if call.reason:
        fields["reason"] = call.reason
    if call.method is UNKNOWN_METHOD:
        # Whoever tries names must not fill the log with errors.
        log.info("no such method", **fields)
    elif call.code in _SERVER_FAULTS:
        log.error("call failed", causes=causes(call.error), exc_info=call.error, **fields)
    elif call.code in _UNUSUAL:
        log.warning("call refused", causes=causes(call.error), **fields)
    elif slow:
        log.warning("slow call", **fields)
    else:
        log.info("call", **fields)
