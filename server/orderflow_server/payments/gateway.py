"""The port `PaymentGateway` over gRPC: what each of the gateway's answers means for an order.

    Answer                                       Money                    Becomes
    OK, a payment in a known state               known                    Payment
    OK, anything else                            unknown                  PaymentUnresolved
    INVALID_ARGUMENT, OUT_OF_RANGE               this call moved none     PaymentRefused
    ALREADY_EXISTS (IDEMPOTENCY_KEY_REUSED)      this call moved none     PaymentRefused
    NOT_FOUND, FAILED_PRECONDITION (refund)      this call moved none     PaymentRefused
    UNIMPLEMENTED                                this call moved none     PaymentRefused
    UNAUTHENTICATED, PERMISSION_DENIED           this call moved none     PaymentUnresolved
    every other status, also one made locally    unknown                  PaymentUnresolved
    (UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED,
    UNKNOWN, INTERNAL, ABORTED, DATA_LOSS,
    RESOURCE_EXHAUSTED)

That a call moved no money does not say that an earlier one under the same key moved none
either: its answer may have been lost. So no error ever settles an order, only a payment does.
Both errors leave the order as it is, to be asked about again under the same key.

What sets them apart is who can help. PaymentUnresolved passes with time; wrong credentials are
among them because they are rotated while orders are placed, and no caller can do anything about
it. PaymentRefused is a defect of either side, or two sets of books that disagree: the same call
fails until a person mends it. So it is not an OrderError: a settlement is parked for that person,
and a caller who is cancelling gets an internal error.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol
from uuid import UUID

import grpc

from orderflow.payments.v1 import payment_gateway_pb2, payment_gateway_pb2_grpc
from orderflow_client.contract import contracts
from orderflow_client.resilience.waiting import elsewhere
from orderflow_client.status import BREAKER_OPEN, details_of
from orderflow_server.messages import write_money
from orderflow_server.orders.errors import PaymentUnresolved
from orderflow_server.orders.ids import text_of
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import Payment, PaymentState
from orderflow_server.payments.wire import STATE_FROM_PROTO

CONTRACT = contracts(payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"])
"""The gateway's policies, for the channel to it."""

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


def was_asked(cause: PaymentUnresolved | PaymentRefused) -> bool:
    """Whether the call got as far as the gateway; False: an open breaker kept it back."""
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

    async def charge(self, order: Order) -> Payment:
        request = payment_gateway_pb2.ChargeRequest(
            idempotency_key=order.payment_key,
            reference=text_of(order.id),
            payment_token=order.payment_token,
        )
        write_money(request.amount, order.total)
        return await _payment_of(order, self._stub.Charge(request))

    async def refund(self, order: Order) -> Payment:
        request = payment_gateway_pb2.RefundRequest(idempotency_key=order.payment_key)
        payment = await _payment_of(order, self._stub.Refund(request))
        if payment.state is not PaymentState.REFUNDED:
            raise PaymentUnresolved(order.id) from ValueError(
                f"the gateway answered a refund with {payment.state.name}"
            )
        return payment

    async def void(self, order: Order) -> Payment:
        request = payment_gateway_pb2.VoidRequest(
            idempotency_key=order.payment_key, reference=text_of(order.id)
        )
        return await _payment_of(order, self._stub.Void(request))


async def _payment_of(order: Order, call: Awaitable[_Answer]) -> Payment:
    try:
        with elsewhere():
            answer = await call
    except grpc.aio.AioRpcError as error:
        if error.code() in _REFUSALS:
            raise PaymentRefused(order.id, error.code(), details_of(error).reason) from error
        raise PaymentUnresolved(order.id) from error
    state = STATE_FROM_PROTO.get(answer.payment.state)
    if state is None:
        raise PaymentUnresolved(order.id) from ValueError(
            f"the gateway answered with the unknown payment state {answer.payment.state}"
        )
    return Payment(state, answer.payment.decline_reason)
