"""Errors on the wire: one table, a reason for each, and no text but what the caller may read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from fakes.orders import order_id, request_id
from orderflow_client.resilience.breaker import BreakerOpen
from orderflow_client.resilience.limiter import Overloaded
from orderflow_server.orders import errors
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.rpc.chain import MalformedRequest
from orderflow_server.rpc.status import (
    RULES,
    InvalidRequest,
    Violation,
    error_status,
)
from orderflow_server.security import errors as access
from orderflow_server.security.rate_limit import RateLimited

CALL = "call-1"
TRACE = "0af7651916cd43dd8448eb211c80319c"
SECRET = "password=hunter2"
ID = order_id(1)
Code = grpc.StatusCode

# One of each, with a secret wherever the text is not the caller's.
EXAMPLES: dict[type[BaseException], BaseException] = {
    InvalidRequest: InvalidRequest([Violation("items[0].sku", "is empty"), Violation("", "bad")]),
    MalformedRequest: MalformedRequest("not a message"),
    errors.InvalidValue: errors.InvalidValue(SECRET),
    errors.InvalidOrder: errors.InvalidOrder("items", "there are none"),
    errors.OrderNotFound: errors.OrderNotFound(ID),
    errors.RequestIdReused: errors.RequestIdReused(request_id(1)),
    errors.IllegalTransition: errors.IllegalTransition(ID, OrderState.PAID, OrderState.PAID),
    errors.VersionConflict: errors.VersionConflict(ID, 2),
    errors.DeadlineExpired: errors.DeadlineExpired(SECRET),
    errors.StoreOverloaded: errors.StoreOverloaded(SECRET),
    errors.StoreUnavailable: errors.StoreUnavailable(SECRET),
    errors.PaymentUnresolved: errors.PaymentUnresolved(ID),
    errors.PaymentInvalid: errors.PaymentInvalid(ID, "amount", SECRET),
    errors.FeedClosed: errors.FeedClosed(SECRET),
    BreakerOpen: BreakerOpen(SECRET, name="store", retry_after_s=2.5),
    Overloaded: Overloaded(SECRET, name="calls", retry_after_s=0.25),
    access.TokenMissing: access.TokenMissing(),
    access.TokenInvalid: access.TokenInvalid("the token is for another audience"),
    access.TokenExpired: access.TokenExpired(),
    access.RoleMissing: access.RoleMissing(),
    access.OtherCustomer: access.OtherCustomer(),
    RateLimited: RateLimited(retry_after_s=0.1),
}


def parse(error: BaseException) -> tuple[status_pb2.Status, dict[str, Message]]:
    """The status as the client gets it, and its details by the name of their type."""
    metadata, *_ = error_status(error, request_id=CALL, trace_id=TRACE).trailing_metadata
    key, value = metadata
    assert key == "grpc-status-details-bin"
    assert isinstance(value, bytes)
    status = status_pb2.Status.FromString(value)
    details: dict[str, Message] = {}
    for packed in status.details:
        name = packed.TypeName().removeprefix("google.rpc.")
        details[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(details[name])
    return status, details


def every_order_error(of: type[errors.OrderError]) -> Iterator[type[errors.OrderError]]:
    """All of the server's; a test's own are none of its business."""
    for kind in of.__subclasses__():
        if kind.__module__.startswith("orderflow_server."):
            yield kind
        yield from every_order_error(kind)


def test_every_error_of_the_domain_has_a_rule() -> None:
    """The base class has none on purpose: nothing raises it."""
    assert set(every_order_error(errors.OrderError)) <= set(RULES)
    assert errors.OrderError not in RULES


def test_there_is_an_example_of_every_rule() -> None:
    assert set(EXAMPLES) == set(RULES)
    assert all(type(error) is kind for kind, error in EXAMPLES.items())


@pytest.mark.parametrize(
    ("kind", "code", "reason", "more"),
    [
        (InvalidRequest, Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"BadRequest"}),
        (MalformedRequest, Code.INVALID_ARGUMENT, "MALFORMED_REQUEST", {"BadRequest"}),
        (errors.InvalidOrder, Code.INVALID_ARGUMENT, "INVALID_REQUEST", {"BadRequest"}),
        (errors.InvalidValue, Code.INVALID_ARGUMENT, "INVALID_VALUE", set()),
        (errors.OrderNotFound, Code.NOT_FOUND, "ORDER_NOT_FOUND", {"ResourceInfo"}),
        (errors.RequestIdReused, Code.ALREADY_EXISTS, "REQUEST_ID_REUSED", set()),
        (
            errors.IllegalTransition,
            Code.FAILED_PRECONDITION,
            "ILLEGAL_TRANSITION",
            {"PreconditionFailure"},
        ),
        (errors.VersionConflict, Code.ABORTED, "VERSION_CONFLICT", {"RetryInfo"}),
        (errors.DeadlineExpired, Code.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", set()),
        (errors.StoreOverloaded, Code.RESOURCE_EXHAUSTED, "STORE_OVERLOADED", {"RetryInfo"}),
        (errors.StoreUnavailable, Code.UNAVAILABLE, "STORE_UNAVAILABLE", {"RetryInfo"}),
        (errors.PaymentUnresolved, Code.UNAVAILABLE, "PAYMENT_UNRESOLVED", {"RetryInfo"}),
        (errors.PaymentInvalid, Code.INTERNAL, "PAYMENT_ANSWER_INVALID", set()),
        (errors.FeedClosed, Code.UNAVAILABLE, "SERVER_DRAINING", {"RetryInfo"}),
        (BreakerOpen, Code.UNAVAILABLE, "BREAKER_OPEN", {"RetryInfo"}),
        (Overloaded, Code.RESOURCE_EXHAUSTED, "OVERLOADED", {"RetryInfo"}),
        (access.TokenMissing, Code.UNAUTHENTICATED, "TOKEN_MISSING", set()),
        (access.TokenInvalid, Code.UNAUTHENTICATED, "TOKEN_INVALID", set()),
        (access.TokenExpired, Code.UNAUTHENTICATED, "TOKEN_EXPIRED", set()),
        (access.RoleMissing, Code.PERMISSION_DENIED, "ROLE_MISSING", set()),
        (access.OtherCustomer, Code.PERMISSION_DENIED, "OTHER_CUSTOMER", set()),
        (RateLimited, Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", {"RetryInfo"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_table(
    kind: type[BaseException], code: grpc.StatusCode, reason: str, more: set[str]
) -> None:
    mapped = error_status(EXAMPLES[kind], request_id=CALL, trace_id=TRACE)
    status, details = parse(EXAMPLES[kind])
    assert (mapped.code, mapped.reason) == (code, reason)
    assert status.code == code.value[0]
    assert set(details) == {"ErrorInfo"} | more


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_every_status_says_who_why_and_which_call(kind: type[BaseException]) -> None:
    status, details = parse(EXAMPLES[kind])
    info = details["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.domain == "orderflow"
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*[A-Z0-9]", info.reason)
    assert dict(info.metadata) == {"request_id": CALL, "trace_id": TRACE}
    assert (
        status.message
        == error_status(EXAMPLES[kind], request_id=CALL, trace_id=TRACE).message
        != ""
    )


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_no_status_carries_text_that_was_not_written_for_the_caller(
    kind: type[BaseException],
) -> None:
    error = EXAMPLES[kind]
    error.__cause__ = ConnectionError(SECRET)
    status, _ = parse(error)
    assert SECRET.encode() not in status.SerializeToString()


class NewStoreProblem(Exception):
    """Stands for any exception that nobody thought of."""


@pytest.mark.parametrize(
    "unexpected",
    [
        NewStoreProblem(SECRET),
        RuntimeError(SECRET),
        KeyError(SECRET),
        AssertionError(SECRET),
        asyncio.InvalidStateError(SECRET),
        errors.OrderError(SECRET),
        PaymentRefused(ID, Code.NOT_FOUND, SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_unexpected_error_is_internal_and_its_text_stays_here(unexpected: Exception) -> None:
    unexpected.__cause__ = ValueError(SECRET)
    unexpected.add_note(SECRET)
    mapped = error_status(unexpected, request_id=CALL, trace_id=TRACE)
    status, details = parse(unexpected)

    assert (mapped.code, mapped.reason) == (Code.INTERNAL, "INTERNAL")
    assert set(details) == {"ErrorInfo"}
    assert dict(details["ErrorInfo"].metadata) == {"request_id": CALL, "trace_id": TRACE}  # type: ignore[attr-defined]  # it is an ErrorInfo
    everything = status.SerializeToString() + repr(mapped).encode()
    assert SECRET.encode() not in everything
    assert type(unexpected).__name__.encode() not in everything


def test_a_subclass_gets_no_rule_that_was_not_written_for_it() -> None:
    """Its text may be for the log only."""

    class Detailed(errors.OrderNotFound):
        def __str__(self) -> str:
            return SECRET

    assert error_status(Detailed(ID), request_id=CALL, trace_id=TRACE).code is Code.INTERNAL
    status, _ = parse(Detailed(ID))
    assert SECRET.encode() not in status.SerializeToString()


# --- the details -----------------------------------------------------------------------


def test_bad_requests_name_each_field() -> None:
    _, details = parse(EXAMPLES[InvalidRequest])
    bad_request = details["BadRequest"]
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad_request.field_violations] == [
        ("items[0].sku", "is empty"),
        ("", "bad"),
    ]


def test_a_missing_order_is_named() -> None:
    _, details = parse(EXAMPLES[errors.OrderNotFound])
    info = details["ResourceInfo"]
    assert isinstance(info, error_details_pb2.ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("orderflow.v1.Order", str(ID))


def test_an_illegal_transition_names_the_order_and_both_states() -> None:
    error = errors.IllegalTransition(ID, OrderState.CANCELLED, OrderState.REFUNDING)
    _, details = parse(error)
    failure = details["PreconditionFailure"]
    assert isinstance(failure, error_details_pb2.PreconditionFailure)
    (violation,) = failure.violations
    assert (violation.type, violation.subject) == ("ORDER_STATE", str(ID))
    assert "CANCELLED" in violation.description
    assert "REFUNDING" in violation.description


def test_who_is_asked_to_come_back_is_told_when() -> None:
    _, details = parse(EXAMPLES[errors.StoreOverloaded])
    info = details["RetryInfo"]
    assert isinstance(info, error_details_pb2.RetryInfo)
    assert info.retry_delay.ToMilliseconds() == 100


@pytest.mark.parametrize(("kind", "delay_ms"), [(BreakerOpen, 2500), (Overloaded, 250)])
def test_a_pushback_says_what_the_policy_says(kind: type[BaseException], delay_ms: int) -> None:
    _, details = parse(EXAMPLES[kind])
    info = details["RetryInfo"]
    assert isinstance(info, error_details_pb2.RetryInfo)
    assert info.retry_delay.ToMilliseconds() == delay_ms
    mapped = error_status(EXAMPLES[kind], request_id=CALL, trace_id=TRACE)
    assert ("grpc-retry-pushback-ms", str(delay_ms)) in mapped.trailing_metadata
