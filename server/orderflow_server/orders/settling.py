"""What a payment's outcome means for its order."""

from __future__ import annotations

from datetime import datetime

from orderflow_server.orders.errors import IllegalTransition
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import Payment, PaymentState


def after_payment(order: Order, payment: Payment, now: datetime) -> Order:
    """The next version of an order that awaits the gateway, now that the gateway has answered.

    A payment that is already voided or refunded under a pending order was cancelled by a
    process that died before it could write so down.

    Raises:
        IllegalTransition: The answer is impossible in the order's state, such as a declined
            payment under an order whose refund is under way.
    """
    match payment.state:
        case PaymentState.CHARGED:
            return order.paid(now)
        case PaymentState.DECLINED:
            return order.declined(payment.decline_reason, now)
        case PaymentState.VOIDED if order.state is OrderState.REFUNDING:
            raise IllegalTransition(order.id, order.state, OrderState.CANCELLED)
        case PaymentState.VOIDED | PaymentState.REFUNDED:
            return order.cancelled(now)
