"""Every error status the simulator gives: a code, ErrorInfo with a reason, and nothing secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Never

import grpc
import protovalidate
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import ServicerContext
from grpc_status import rpc_status

from orderflow_server.payments.simulator.ledger import (
    IdempotencyKeyReused,
    LedgerError,
    PaymentNotCharged,
    PaymentNotFound,
)

DOMAIN = "orderflow"

_LEDGER_ERRORS: Mapping[type[LedgerError], tuple[grpc.StatusCode, str]] = {
    IdempotencyKeyReused: (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_KEY_REUSED"),
    PaymentNotFound: (grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND"),
    PaymentNotCharged: (grpc.StatusCode.FAILED_PRECONDITION, "PAYMENT_NOT_CHARGED"),
}


class Refusal(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    @classmethod
    def of(cls, error: LedgerError) -> Refusal:
        code, reason = _LEDGER_ERRORS[type(error)]
        return cls(code, reason, str(error))

    @classmethod
    def invalid(cls, violations: Mapping[str, str]) -> Refusal:
        """INVALID_ARGUMENT; `violations` maps the path of a field to what is wrong with it."""
        bad_request = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                for field, description in violations.items()
            ]
        )
        message = "; ".join(f"{field}: {what}" for field, what in violations.items())
        return cls(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", message, bad_request)

    @classmethod
    def simulated(cls, reason: str, message: str) -> Refusal:
        return cls(grpc.StatusCode.UNAVAILABLE, reason, message)


async def refuse(context: ServicerContext[Any, Any], refusal: Refusal) -> Never:
    """Ends the call with the refusal's status; never returns."""
    info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN)
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    for detail in (info, *refusal.details):
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))


def check(request: Message) -> None:
    """Checks a request against the rules in the contract.

    Raises:
        Refusal: It breaks some.
    """
    violations: dict[str, str] = {}
    for violation in protovalidate.collect_violations(request):
        field = violation.proto.field
        path = ".".join(element.field_name for element in field.elements) if field else ""
        violations.setdefault(path, violation.proto.message)
    if violations:
        raise Refusal.invalid(violations)
