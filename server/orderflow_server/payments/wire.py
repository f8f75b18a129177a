"""What the gateway's contract and the domain have in common: amounts and payment states."""

from __future__ import annotations

from collections.abc import Mapping

from google.type import money_pb2

from orderflow.payments.v1 import payment_gateway_pb2
from orderflow_server.orders.money import Money
from orderflow_server.orders.ports import PaymentState

STATE_TO_PROTO: Mapping[PaymentState, payment_gateway_pb2.PaymentState.ValueType] = {
    PaymentState.CHARGED: payment_gateway_pb2.PAYMENT_STATE_CHARGED,
    PaymentState.DECLINED: payment_gateway_pb2.PAYMENT_STATE_DECLINED,
    PaymentState.REFUNDED: payment_gateway_pb2.PAYMENT_STATE_REFUNDED,
    PaymentState.VOIDED: payment_gateway_pb2.PAYMENT_STATE_VOIDED,
}
STATE_FROM_PROTO: Mapping[payment_gateway_pb2.PaymentState.ValueType, PaymentState] = {
    proto: state for state, proto in STATE_TO_PROTO.items()
}


def money_from_proto(money: money_pb2.Money) -> Money:
    """The domain's amount.

    Raises:
        MoneyError: It is none, such as one without a currency.
    """
    return Money(money.currency_code, money.units, money.nanos)
