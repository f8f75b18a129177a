"""What a call can raise, as types: one per family of what a caller can do about it.

    OrderflowError
    ├── InvalidRequest      the request breaks a rule; `violations` says which (INVALID_ARGUMENT,
    │                       OUT_OF_RANGE)
    ├── NotFound            there is no such thing (NOT_FOUND)
    ├── Conflict            what is there does not allow it (ALREADY_EXISTS, ABORTED,
    │                       FAILED_PRECONDITION)
    ├── PermissionDenied    who calls may not (UNAUTHENTICATED, PERMISSION_DENIED)
    ├── Overloaded          the server sheds load; nothing was done (RESOURCE_EXHAUSTED)
    ├── Unavailable         the server, or the way to it, is down; with the reason BREAKER_OPEN it
    │                       was not asked, as it kept failing (UNAVAILABLE)
    ├── DeadlineExceeded    the time ran out; what was asked may still happen (DEADLINE_EXCEEDED)
    ├── Cancelled           the other side gave the call up (CANCELLED)
    └── ServerError         a defect, here or there (INTERNAL, UNKNOWN, DATA_LOSS, UNIMPLEMENTED)

Each is raised `from` the gRPC error it was made of. A caller's own cancellation is
`asyncio.CancelledError`, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import grpc

from orderflow_client.status import StatusDetails, details_of, metadatum
from orderflow_client.unreachable import status_sentence

REQUEST_ID_KEY = "x-request-id"
TRACE_ID_KEY = "x-trace-id"

_NO_DETAILS = StatusDetails()


class OrderflowError(Exception):
    """A call failed.

    Attributes:
        code: The gRPC status.
        reason: Why, in UPPER_SNAKE_CASE, for programs. Empty when the server did not say.
        message: Why, as a sentence, for people.
        metadata: More about the reason.
        retry_delay_s: When to try again. None when nobody said.
        violations: Pairs of a field (or subject) and what is wrong with it.
        request_id: Names the call in the server's log. None when not told.
        trace_id: Names the call's trace. None when not told.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        details: StatusDetails = _NO_DETAILS,
        request_id: str | None = None,
        trace_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = details.reason
        self.metadata: Mapping[str, str] = MappingProxyType(dict(details.metadata))
        self.retry_delay_s = details.retry_delay_s
        self.violations = details.violations
        self.request_id = request_id
        self.trace_id = trace_id

    def __str__(self) -> str:
        reason = f" ({self.reason})" if self.reason else ""
        return f"{self.code.name}{reason}: {self.message}"


class InvalidRequest(OrderflowError):
    """The request breaks a rule; repeating it as it is will not help."""


class NotFound(OrderflowError):
    """There is no such thing."""


class Conflict(OrderflowError):
    """What is there does not allow what was asked."""


class PermissionDenied(OrderflowError):
    """Who calls may not do this, or is not known."""


class Overloaded(OrderflowError):
    """The server sheds load; nothing was done."""


class Unavailable(OrderflowError):
    """The server, or the way to it, is down. What was asked may have been done."""


class DeadlineExceeded(OrderflowError):
    """The time ran out. What was asked may have been done, or may still happen."""


class Cancelled(OrderflowError):
    """The other side gave the call up."""


class ServerError(OrderflowError):
    """A defect, here or there."""


_FAMILIES: Mapping[grpc.StatusCode, type[OrderflowError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.ABORTED: Conflict,
    grpc.StatusCode.FAILED_PRECONDITION: Conflict,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: ServerError,
    grpc.StatusCode.UNKNOWN: ServerError,
    grpc.StatusCode.DATA_LOSS: ServerError,
    grpc.StatusCode.UNIMPLEMENTED: ServerError,
}


def from_rpc_error(error: grpc.aio.AioRpcError) -> OrderflowError:
    """The typed error for a gRPC error; to be raised `from` it.

    The request and the trace are named by the metadata, or else by the ErrorInfo.
    """
    details = details_of(error)
    return _FAMILIES[error.code()](
        status_sentence(error.details() or error.code().name),
        code=error.code(),
        details=details,
        request_id=_text(error, REQUEST_ID_KEY) or details.metadata.get("request_id"),
        trace_id=_text(error, TRACE_ID_KEY) or details.metadata.get("trace_id"),
    )


def _text(error: grpc.aio.AioRpcError, key: str) -> str | None:
    value = metadatum(error.trailing_metadata(), key) or metadatum(error.initial_metadata(), key)
    return value if isinstance(value, str) else None
