"""Wrong answers: the ledger has the truth, and the answer says something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from orderflow.payments.v1 import payment_gateway_pb2
from orderflow_server.payments.simulator.faults import Lie

Answer: TypeAlias = (
    payment_gateway_pb2.ChargeResponse
    | payment_gateway_pb2.RefundResponse
    | payment_gateway_pb2.VoidResponse
    | payment_gateway_pb2.GetPaymentResponse
)

TOO_MUCH_UNITS = 1000
"""How much more than the truth a wrong amount is, in units of its currency."""

_UNPARSEABLE = b"\xff" * 16
_NOT_UTF_8 = b"\xff"


def told(answer: Answer, lie: Lie) -> Answer | bytes:
    """Return the answer with the lie in it; the bytes for the wire when no message can have it."""
    payment = answer.payment
    if lie is Lie.UNPARSEABLE:
        return _UNPARSEABLE
    if lie is Lie.INVALID_TEXT:
        # Parsers merge a field that comes twice. Both are shorter than 128 bytes: one for a length.
        reason = _field(payment_gateway_pb2.Payment.DECLINE_REASON_FIELD_NUMBER, _NOT_UTF_8)
        return answer.SerializeToString() + _field(answer.PAYMENT_FIELD_NUMBER, reason)
    if lie is Lie.OTHER_KEY:
        payment.idempotency_key = f"other-{payment.idempotency_key}"
    elif lie is Lie.OTHER_AMOUNT:
        payment.amount.units += TOO_MUCH_UNITS
    elif lie is Lie.OTHER_CURRENCY:
        payment.amount.currency_code = "USD" if payment.amount.currency_code != "USD" else "EUR"
    elif payment.state == payment_gateway_pb2.PAYMENT_STATE_REFUNDED:
        payment.state = payment_gateway_pb2.PAYMENT_STATE_CHARGED
    else:
        payment.state = payment_gateway_pb2.PAYMENT_STATE_REFUNDED
    return answer


def _field(number: int, value: bytes) -> bytes:
    """Serialize a length-delimited field."""
    return bytes((number << 3 | 2, len(value))) + value


class BytesAllowed:
    """Adds a service of unary methods whose answers may be bytes for the wire already.

    Args:
        server: What the service is added to, as generated code does.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by generated code. A method with a handler needs no generic one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Called by generated code."""
        self._server.add_registered_method_handlers(
            service,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    handler.unary_unary,
                    request_deserializer=handler.request_deserializer,
                    response_serializer=_serializer(handler.response_serializer),
                )
                for name, handler in handlers.items()
            },
        )


def _serializer(usual: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    return lambda answer: answer if isinstance(answer, bytes) else usual(answer)
