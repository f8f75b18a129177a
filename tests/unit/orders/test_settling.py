"""What each answer of the gateway makes of an order in each state."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.orders import NOW, new_order
from orderflow_server.orders.errors import IllegalTransition, PaymentInvalid
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import Payment, PaymentState
from orderflow_server.orders.settling import after_payment

LATER = NOW + timedelta(seconds=1)
PENDING = new_order()
REFUNDING = PENDING.paid(NOW).refunding(NOW)


@pytest.mark.parametrize(
    ("order", "payment", "state"),
    [
        (PENDING, PaymentState.CHARGED, OrderState.PAID),
        (PENDING, PaymentState.DECLINED, OrderState.PAYMENT_DECLINED),
        (PENDING, PaymentState.VOIDED, OrderState.CANCELLED),
        (REFUNDING, PaymentState.REFUNDED, OrderState.CANCELLED),
    ],
)
def test_the_order_follows_its_payment(
    order: Order, payment: PaymentState, state: OrderState
) -> None:
    following = after_payment(order, Payment(payment), LATER)
    assert (following.state, following.version) == (state, order.version + 1)
    assert following.update_time == LATER


def test_a_declined_order_keeps_the_gateway_s_words() -> None:
    payment = Payment(PaymentState.DECLINED, "no funds")
    assert after_payment(PENDING, payment, LATER).decline_reason == "no funds"


def test_a_pending_order_s_payment_cannot_be_refunded() -> None:
    with pytest.raises(PaymentInvalid, match="REFUNDED"):
        after_payment(PENDING, Payment(PaymentState.REFUNDED), LATER)


@pytest.mark.parametrize("payment", [PaymentState.CHARGED, PaymentState.DECLINED])
def test_a_refund_under_way_does_not_end_with_the_money_kept_or_never_taken(
    payment: PaymentState,
) -> None:
    with pytest.raises(IllegalTransition):
        after_payment(REFUNDING, Payment(payment), LATER)
