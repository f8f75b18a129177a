"""What a payment's outcome means for its order."""

from __future__ import annotations

from datetime import datetime

from orderflow_server.orders.errors import IllegalTransition, PaymentInvalid
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import Payment, PaymentState

ANSWER_INVALID = "ANSWER_INVALID"


def after_payment(order: Order, payment: Payment, now: datetime) -> Order:
    """Return the next version of an order that awaits the gateway, after the gateway's answer.

    A payment that is voided under a pending order was cancelled by a process that died before it
    could save that. A payment that is refunded under one is impossible: REFUNDING is saved before
    any refund is asked for.

    Raises:
        IllegalTransition: The answer is impossible in the order's state, such as a declined
            payment under an order whose refund is in progress.
        PaymentInvalid: The payment of a pending order is refunded.
    """
    match payment.state:
        case PaymentState.CHARGED:
            return order.paid(now)
        case PaymentState.DECLINED:
            return order.declined(payment.decline_reason, now)
        case PaymentState.VOIDED if order.state is OrderState.REFUNDING:
            raise IllegalTransition(order.id, order.state, OrderState.CANCELLED)
        case PaymentState.REFUNDED if order.state is OrderState.PENDING_PAYMENT:
            raise PaymentInvalid(order.id, "state", "the payment of a pending order is REFUNDED")
        case PaymentState.VOIDED | PaymentState.REFUNDED:
            return order.cancelled(now)


def parking_reason(error: PaymentInvalid) -> str:
    """Return the reason to park an order with, after a wrong answer of the gateway."""
    return f"{ANSWER_INVALID}: {error.problem}"
