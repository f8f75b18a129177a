"""The port `PaymentGateway` over gRPC: how each of the gateway's answers counts for an order.

    Answer                                       Money                    Becomes
    OK, a payment that fits the question         known                    Payment
    OK, a state that this release does not know  unknown                  PaymentUnresolved
    OK, anything else                            unknown                  PaymentInvalid
    INVALID_ARGUMENT, OUT_OF_RANGE               this call moved none     PaymentRefused
    ALREADY_EXISTS (IDEMPOTENCY_KEY_REUSED)      this call moved none     PaymentRefused
    NOT_FOUND, FAILED_PRECONDITION (refund)      this call moved none     PaymentRefused
    UNIMPLEMENTED                                this call moved none     PaymentRefused
    UNAUTHENTICATED, PERMISSION_DENIED           this call moved none     PaymentUnresolved
    every other status, also one made locally    unknown                  PaymentUnresolved
    (UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED,
    UNKNOWN, INTERNAL, ABORTED, DATA_LOSS,
    RESOURCE_EXHAUSTED)

A payment fits when it has the key, the amount and the currency that were asked about, in a state
that is possible for the question. Nothing else is believed: an order must not be PAID because the
gateway mixed up its answers.

That a call moved no money does not say that an earlier one under the same key moved none
either: its answer may have been lost. So no error ever settles an order, only a payment does.
All errors leave the order as it is, to be asked about again under the same key.

The errors differ in the remedy. PaymentUnresolved passes with time; wrong credentials are among
them because they are rotated while orders are placed, and no caller can do anything about it.
PaymentRefused and PaymentInvalid are defects of either side, or two ledgers that disagree: the same
call fails until a person repairs it. So a settlement is parked for that person, and a caller that
cancels gets an internal error. A refusal that hits many orders is the gateway's fault and not
theirs: see `refusals`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection
from typing import Protocol
from uuid import UUID

import grpc
from google.type import money_pb2

from orderflow.payments.v1 import payment_gateway_pb2, payment_gateway_pb2_grpc
from orderflow_client.contract import contracts
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.subject import about
from orderflow_client.resilience.waiting import elsewhere
from orderflow_client.status import BREAKER_OPEN, details_of
from orderflow_server.messages import write_money
from orderflow_server.orders.errors import PaymentInvalid, PaymentUnresolved
from orderflow_server.orders.ids import text_of
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import Payment, PaymentState
from orderflow_server.payments.wire import STATE_FROM_PROTO

CONTRACT = contracts(payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"])
"""The gateway's policies, for the channel to it."""

BREAKER = BreakerOptions(proof_s=3.0)
"""For the channel to it: one order whose charge hangs is no gateway that is down."""

MAX_DECLINE_REASON = 1000
"""Longer reasons of the gateway are cut, characters: they travel in every event of the order."""

_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class PaymentRefused(Exception):
    """The gateway will not do what was asked, now or later; this call moved no money.

    Attributes:
        reason: The gateway's ErrorInfo reason; empty when it gave none.
    """

    def __init__(self, order_id: UUID, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(
            f"the gateway refuses the payment of order {order_id}: {code.name} {reason}".rstrip()
        )
        self.order_id = order_id
        self.code = code
        self.reason = reason


_CREDENTIALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})


def refusal_code(cause: Exception) -> grpc.StatusCode | None:
    """Return the status with which the gateway refused the call; None: it did not refuse it.

    Wrong credentials are among the refusals.
    """
    if isinstance(cause, PaymentRefused):
        return cause.code
    error = cause.__cause__
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _CREDENTIALS:
        return error.code()
    return None


def was_asked(cause: Exception) -> bool:
    """Return whether the call reached the gateway; False: an open breaker kept it back."""
    error = cause.__cause__
    return not (
        isinstance(error, grpc.aio.AioRpcError) and details_of(error).reason == BREAKER_OPEN
    )


class _Answer(Protocol):
    """Every response of the gateway."""

    @property
    def payment(self) -> payment_gateway_pb2.Payment: ...


class GrpcPaymentGateway:
    """Asks a payment gateway, once per call.

    Retries, the ambient deadline and the time of each attempt are the channel's business
    (`orderflow_client.channel.open_channel` with the gateway's contract).
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = payment_gateway_pb2_grpc.PaymentGatewayStub(channel)

    async def find(self, order: Order) -> Payment | None:
        request = payment_gateway_pb2.GetPaymentRequest(idempotency_key=order.payment_key)
        try:
            return await _payment_of(order, self._stub.GetPayment(request), _ANY)
        except PaymentRefused as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    async def charge(self, order: Order) -> Payment:
        request = payment_gateway_pb2.ChargeRequest(
            idempotency_key=order.payment_key,
            reference=text_of(order.id),
            payment_token=order.payment_token,
        )
        write_money(request.amount, order.total)
        return await _payment_of(order, self._stub.Charge(request), _ANY)

    async def refund(self, order: Order) -> Payment:
        request = payment_gateway_pb2.RefundRequest(idempotency_key=order.payment_key)
        return await _payment_of(order, self._stub.Refund(request), _REFUNDED)

    async def void(self, order: Order) -> Payment:
        request = payment_gateway_pb2.VoidRequest(
            idempotency_key=order.payment_key, reference=text_of(order.id)
        )
        return await _payment_of(order, self._stub.Void(request), _ANY)


_ANY = frozenset(PaymentState)
"""Whether the order may be in a state that goes with it is for the domain to say."""
_REFUNDED = frozenset({PaymentState.REFUNDED})


async def _payment_of(
    order: Order, call: Awaitable[_Answer | None], possible: Collection[PaymentState]
) -> Payment:
    try:
        with elsewhere(), about(order.payment_key):
            answer = await call
    except grpc.aio.AioRpcError as error:
        if error.code() in _REFUSALS:
            raise PaymentRefused(order.id, error.code(), details_of(error).reason) from error
        raise PaymentUnresolved(order.id) from error
    # gRPC's answer to a message that cannot be parsed (grpcio 1.85).
    if answer is None:
        raise PaymentInvalid(order.id, "message", "the message cannot be parsed")
    payment = answer.payment
    if payment.idempotency_key != order.payment_key:
        raise PaymentInvalid(order.id, "idempotency_key", "it is about another payment")
    state = STATE_FROM_PROTO.get(payment.state)
    if state is None:
        raise PaymentUnresolved(order.id) from ValueError(
            f"the gateway answered with the unknown payment state {payment.state}"
        )
    if state not in possible:
        raise PaymentInvalid(order.id, "state", f"{state.name} is no answer to the question")
    # Voided before any charge there is no amount.
    if state is not PaymentState.VOIDED or payment.HasField("amount"):
        _check_amount(order, payment.amount)
    reason = payment.decline_reason[:MAX_DECLINE_REASON]
    return Payment(state, reason)


def _check_amount(order: Order, amount: money_pb2.Money) -> None:
    total = order.total
    if amount.currency_code != total.currency_code:
        raise PaymentInvalid(order.id, "currency", "the currency is not the order's")
    if amount.units != total.units or amount.nanos != total.nanos:
        raise PaymentInvalid(order.id, "amount", "the amount is not the order's total")
