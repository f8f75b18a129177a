"""What a failed call says about itself, and what the policies make of it.

The details are read from `grpc-status-details-bin` with google.rpc's own messages:
`grpc_status.rpc_status.aio.from_call` does not take an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError
from google.rpc import (
    error_details_pb2,
    status_pb2,
)

from orderflow_client.resilience.breaker import Finding, Outcome, Resting
from orderflow_client.resilience.retry import Verdict
from orderflow_client.unreachable import cause_of_status

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

BREAKER_OPEN = "BREAKER_OPEN"
"""The reason of who refuses a call because what it needs is down."""

_STOP_S = -1.0

RETRYABLE_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
"""What is retried even when the server says nothing about retries."""

_BREAKER_FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)


class NeverSent(grpc.aio.AioRpcError):
    """An attempt ended here before anything was sent: it says nothing about the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDetails:
    """The google.rpc details of one failure.

    Attributes:
        reason: Why, in UPPER_SNAKE_CASE (ErrorInfo). Empty when not said.
        metadata: More about the reason (ErrorInfo).
        retry_delay_s: When to try again (RetryInfo). None when not said.
        violations: Pairs of a field or subject and what is wrong with it (BadRequest,
            PreconditionFailure).
    """

    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay_s: float | None = None
    violations: tuple[tuple[str, str], ...] = ()


def details_of(error: grpc.aio.AioRpcError) -> StatusDetails:
    """The details an error carries; empty ones when it carries none that can be read."""
    return _details_in(error.trailing_metadata())


def _details_in(trailing_metadata: grpc.aio.Metadata | None) -> StatusDetails:
    raw = metadatum(trailing_metadata, DETAILS_KEY)
    if not isinstance(raw, bytes):
        return StatusDetails()
    try:
        status = status_pb2.Status.FromString(raw)
        return _read(status)
    except DecodeError:
        # What is on the wire is not the caller's doing, and the code alone still says much.
        return StatusDetails()


def _read(status: status_pb2.Status) -> StatusDetails:
    info = error_details_pb2.ErrorInfo()
    retry_info = error_details_pb2.RetryInfo()
    bad_request = error_details_pb2.BadRequest()
    precondition = error_details_pb2.PreconditionFailure()
    retry_delay_s: float | None = None
    violations: list[tuple[str, str]] = []
    for detail in status.details:
        if detail.Unpack(retry_info):
            delay = retry_info.retry_delay
            retry_delay_s = delay.seconds + delay.nanos / 1e9
        elif detail.Unpack(bad_request):
            violations += [(v.field, v.description) for v in bad_request.field_violations]
        elif detail.Unpack(precondition):
            violations += [(v.subject, v.description) for v in precondition.violations]
        else:
            detail.Unpack(info)
    return StatusDetails(
        reason=info.reason,
        metadata=dict(info.metadata),
        retry_delay_s=retry_delay_s,
        violations=tuple(violations),
    )


def verdict_on(error: Exception) -> Verdict:
    """Whether a failed attempt may be repeated, and what the server said about when.

    UNAVAILABLE may, and so may DEADLINE_EXCEEDED (of an attempt: whether the call's own
    deadline lasts is for the retry to see), RESOURCE_EXHAUSTED only with a pushback.
    """
    if not isinstance(error, grpc.aio.AioRpcError) or isinstance(error, NeverSent):
        return Verdict(retryable=False)
    pushback_s = _pushback_s(error)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Verdict(pushback_s is not None, pushback_s)
    return Verdict(error.code() in RETRYABLE_CODES, pushback_s)


def outcome_of(error: Exception) -> Finding:
    """What a failed attempt says about the health of the server.

    What is no gRPC error, such as a request that cannot be serialized, never got there.
    """
    if not isinstance(error, grpc.aio.AioRpcError) or isinstance(error, NeverSent):
        return Outcome.IGNORED
    return outcome_of_status(error.code(), error.trailing_metadata())


def outcome_of_status(
    code: grpc.StatusCode, trailing_metadata: grpc.aio.Metadata | None
) -> Finding:
    """What the status of an ended call says about the health of the server.

    An answer that is a refusal, such as NOT_FOUND, is a success: the server works. One whose own
    breaker is open is not well, and says for how long.
    """
    if code is grpc.StatusCode.CANCELLED:
        return Outcome.IGNORED
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Outcome.UNANSWERED
    if code is grpc.StatusCode.UNAVAILABLE:
        details = _details_in(trailing_metadata)
        if details.reason == BREAKER_OPEN and details.retry_delay_s is not None:
            return Resting(details.retry_delay_s)
    return Outcome.FAILURE if code in _BREAKER_FAILURES else Outcome.SUCCESS


def _pushback_s(error: grpc.aio.AioRpcError) -> float | None:
    raw = metadatum(error.trailing_metadata(), PUSHBACK_KEY)
    if raw is None:
        return details_of(error).retry_delay_s
    try:
        return int(raw) / 1000
    except ValueError:
        return _STOP_S  # gRFC A6: what cannot be read means "do not retry".


def metadatum(metadata: grpc.aio.Metadata | None, key: str) -> str | bytes | None:
    """The first value under a key; None when there is none."""
    return None if metadata is None else metadata.get(key)


def brief(error: BaseException) -> str:
    """Return the text of an error for a log: of a failed call its code and reason.

    The text of a failed call is left out, because the other side writes it: a gateway may well
    quote the card it refused. When there was no connection, the cause of that follows, in our
    words.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        status = f"{error.code().name} {details_of(error).reason}".rstrip()
        cause = cause_of_status(error.details())
        return status if cause is None else f"{status}: {cause}"
    return f"{type(error).__name__}: {error}"
