"""Errors as google.rpc.Status: which error becomes which code and reason is one table, here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from orderflow_client.resilience.breaker import BreakerOpen
from orderflow_client.resilience.limiter import Overloaded
from orderflow_client.resilience.policy import Rejected
from orderflow_server.orders import errors
from orderflow_server.rpc.chain import MalformedRequest
from orderflow_server.security import errors as access
from orderflow_server.security.rate_limit import RateLimited

ERROR_DOMAIN = "orderflow"
INTERNAL_REASON = "INTERNAL"
INTERNAL_MESSAGE = "internal error; the request_id names it in the server's log"

PUSHBACK_KEY = "grpc-retry-pushback-ms"

RETRY_AFTER_S = 0.1
"""What a refused caller is told to wait when nothing better is known."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule of a request.

    Attributes:
        field: Its path, such as `items[2].quantity`; empty when the message as a whole is wrong.
        description: What is wrong, as a sentence for the caller.
    """

    field: str
    description: str


class InvalidRequest(Exception):
    """A request breaks rules of the contract."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


@dataclass(frozen=True, slots=True)
class Rule:
    """How one type of error goes over the wire.

    Attributes:
        details: More google.rpc details than ErrorInfo and RetryInfo.
        message: What the caller reads; the error's own text when None.
        retry_after_s: When the caller may try again. None: nothing is said about it.
    """

    code: grpc.StatusCode
    reason: str
    details: Callable[[Any], Iterable[Message]] = lambda _error: ()
    message: str | None = None
    retry_after_s: Callable[[Any], float] | None = None


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """An error as the caller gets it."""

    code: grpc.StatusCode
    reason: str
    message: str
    trailing_metadata: Sequence[tuple[str, str | bytes]]


def _bad_request(violations: Iterable[Violation]) -> Iterable[Message]:
    yield error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in violations
        ]
    )


def _invalid_request(error: InvalidRequest) -> Iterable[Message]:
    return _bad_request(error.violations)


def _malformed_request(error: MalformedRequest) -> Iterable[Message]:
    return _bad_request([Violation("", str(error))])


def _invalid_order(error: errors.InvalidOrder) -> Iterable[Message]:
    return _bad_request([Violation(error.field, error.description)])


def _missing_order(error: errors.OrderNotFound) -> Iterable[Message]:
    yield error_details_pb2.ResourceInfo(
        resource_type="orderflow.v1.Order", resource_name=str(error.order_id)
    )


def _illegal_transition(error: errors.IllegalTransition) -> Iterable[Message]:
    yield error_details_pb2.PreconditionFailure(
        violations=[
            error_details_pb2.PreconditionFailure.Violation(
                type="ORDER_STATE", subject=str(error.order_id), description=str(error)
            )
        ]
    )


def _soon(_error: BaseException) -> float:
    return RETRY_AFTER_S


def _when_told(error: Rejected) -> float:
    return error.retry_after_s


_Code = grpc.StatusCode
RULES: Mapping[type[BaseException], Rule] = {
    InvalidRequest: Rule(_Code.INVALID_ARGUMENT, "INVALID_REQUEST", _invalid_request),
    MalformedRequest: Rule(_Code.INVALID_ARGUMENT, "MALFORMED_REQUEST", _malformed_request),
    errors.InvalidOrder: Rule(_Code.INVALID_ARGUMENT, "INVALID_REQUEST", _invalid_order),
    errors.InvalidValue: Rule(
        _Code.INVALID_ARGUMENT,
        "INVALID_VALUE",
        message="a value cannot be stored: text must be Unicode without NUL, numbers in range",
    ),
    errors.OrderNotFound: Rule(_Code.NOT_FOUND, "ORDER_NOT_FOUND", _missing_order),
    errors.RequestIdReused: Rule(_Code.ALREADY_EXISTS, "REQUEST_ID_REUSED"),
    errors.IllegalTransition: Rule(
        _Code.FAILED_PRECONDITION, "ILLEGAL_TRANSITION", _illegal_transition
    ),
    errors.VersionConflict: Rule(_Code.ABORTED, "VERSION_CONFLICT", retry_after_s=_soon),
    errors.DeadlineExpired: Rule(
        _Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", message="the deadline passed"
    ),
    errors.StoreOverloaded: Rule(
        _Code.RESOURCE_EXHAUSTED,
        "STORE_OVERLOADED",
        retry_after_s=_soon,
        message="too many orders are waiting to be written",
    ),
    errors.StoreUnavailable: Rule(
        _Code.UNAVAILABLE,
        "STORE_UNAVAILABLE",
        retry_after_s=_soon,
        message="orders cannot be read or written at the moment",
    ),
    errors.PaymentUnresolved: Rule(
        _Code.UNAVAILABLE,
        "PAYMENT_UNRESOLVED",
        retry_after_s=_soon,
        message="the payment gateway does not say what became of the payment",
    ),
    errors.PaymentInvalid: Rule(
        _Code.INTERNAL,
        "PAYMENT_ANSWER_INVALID",
        message="the payment gateway's answer is wrong; an operator has to look at the order",
    ),
    errors.FeedClosed: Rule(
        _Code.UNAVAILABLE,
        "SERVER_DRAINING",
        retry_after_s=_soon,
        message="this server is going away; try another",
    ),
    BreakerOpen: Rule(
        _Code.UNAVAILABLE,
        "BREAKER_OPEN",
        retry_after_s=_when_told,
        message="something this server depends on is down; it is not asked again before that time",
    ),
    Overloaded: Rule(
        _Code.RESOURCE_EXHAUSTED,
        "OVERLOADED",
        retry_after_s=_when_told,
        message="more calls than this server can serve in time",
    ),
    access.TokenMissing: Rule(_Code.UNAUTHENTICATED, "TOKEN_MISSING"),
    access.TokenInvalid: Rule(_Code.UNAUTHENTICATED, "TOKEN_INVALID"),
    access.TokenExpired: Rule(_Code.UNAUTHENTICATED, "TOKEN_EXPIRED"),
    access.RoleMissing: Rule(_Code.PERMISSION_DENIED, "ROLE_MISSING"),
    access.OtherCustomer: Rule(_Code.PERMISSION_DENIED, "OTHER_CUSTOMER"),
    RateLimited: Rule(_Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry_after_s=_when_told),
}
_UNEXPECTED = Rule(grpc.StatusCode.INTERNAL, INTERNAL_REASON, message=INTERNAL_MESSAGE)


def error_status(error: BaseException, *, request_id: str, trace_id: str) -> ErrorStatus:
    """The status of an error. One that is not in the table is INTERNAL, and its text stays here."""
    rule = RULES.get(type(error), _UNEXPECTED)
    message = str(error) if rule.message is None else rule.message
    status = status_pb2.Status(code=rule.code.value[0], message=message)
    info = error_details_pb2.ErrorInfo(
        reason=rule.reason,
        domain=ERROR_DOMAIN,
        metadata={"request_id": request_id, "trace_id": trace_id},
    )
    status.details.add().Pack(info)
    for detail in rule.details(error):
        status.details.add().Pack(detail)
    pushback: Sequence[tuple[str, str]] = ()
    if rule.retry_after_s is not None:
        delay_ms = round(rule.retry_after_s(error) * 1000)
        retry_info = error_details_pb2.RetryInfo()
        retry_info.retry_delay.FromMilliseconds(delay_ms)
        status.details.add().Pack(retry_info)
        pushback = ((PUSHBACK_KEY, str(delay_ms)),)
    return ErrorStatus(
        rule.code,
        rule.reason,
        message,
        (*(rpc_status.to_status(status).trailing_metadata or ()), *pushback),
    )
