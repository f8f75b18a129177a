"""The names in spans and metrics.

OpenTelemetry's conventions for RPCs are not stable yet: whoever follows them to their next version
does it here.
"""

from __future__ import annotations

import grpc

# Attributes of spans; https://opentelemetry.io/docs/specs/semconv/rpc/rpc-spans/
RPC_SYSTEM = "rpc.system"
RPC_SERVICE = "rpc.service"
RPC_METHOD = "rpc.method"
RPC_STATUS_CODE = "rpc.grpc.status_code"
"""The status as a number; on every span of a call, OK included."""
CLIENT_ADDRESS = "client.address"
ERROR_TYPE = "error.type"

REASON = "orderflow.reason"
"""ErrorInfo.reason of a status that is not OK."""
REQUEST_ID = "orderflow.request_id"
ATTEMPT = "orderflow.attempt"
"""The number of an attempt within its call, from 1."""
ATTEMPT_DELAY_MS = "orderflow.attempt.delay_ms"
"""How long the call waited before this attempt, after the one before had failed."""
ATTEMPT_HEDGE = "orderflow.attempt.hedge"
"""The attempt was started while another was under way."""
BREAKER_STATE = "orderflow.breaker.state"
"""Of the breaker that let the attempt through."""
CAUSE = "orderflow.cause"
"""Code and reason of the failure that an event comes of."""

# Events of a client's span.
RETRY_SCHEDULED = "retry scheduled"
HEDGE_STARTED = "hedge started"

# Labels of metrics, as existing gRPC dashboards expect them.
SERVICE_LABEL = "grpc_service"
METHOD_LABEL = "grpc_method"
TYPE_LABEL = "grpc_type"
CODE_LABEL = "grpc_code"

OTHER = "other"
"""Service and method of calls to what does not exist: their names are the callers' to choose."""

TRACE_ID = "trace_id"
"""In exemplars and log lines."""
SPAN_ID = "span_id"

SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The codes that make a server's span an error; a client's is one for every code but OK."""


def grpc_type(*, request_streaming: bool, response_streaming: bool) -> str:
    """The value of the label `grpc_type`."""
    if request_streaming:
        return "bidi_stream" if response_streaming else "client_stream"
    return "server_stream" if response_streaming else "unary"
