"""What becomes of orders and their payments."""

from __future__ import annotations

from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge

from orderflow_server.orders.errors import PaymentInvalid
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.refusals import RefusalsWidespread
from orderflow_server.payments.settlement import (
    OrderSettled,
    SettlementDeferred,
    SettlementEvent,
    SettlementParked,
)
from orderflow_server.storage.engine import BatchEnded

_UNRESOLVED, _REFUSED, _INVALID, _PARKED = "unresolved", "refused", "invalid", "parked"
_SETTLED = (OrderState.PAID, OrderState.PAYMENT_DECLINED, OrderState.CANCELLED)


class OrderMetrics:
    """`orderflow_order_changes_total` and `orderflow_payments_total`.

    Its `on_batch` is for the store's listener, its `on_settlement` for the settlement's.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        changes = Counter(
            "orderflow_order_changes",
            "Versions of orders written, by the state that the order entered.",
            ("state",),
            registry=registry,
        )
        self._changes = {state: changes.labels(state.value) for state in OrderState}
        payments = Counter(
            "orderflow_payments",
            "Attempts to settle an order with the gateway, by the state that the order got. "
            "Tried again later: unresolved, no answer in time; refused, an answer of no use. "
            "Not tried again until a person has looked: parked; invalid, parked because the "
            "answer does not fit the order.",
            ("outcome",),
            registry=registry,
        )
        self._payments = {
            outcome: payments.labels(outcome)
            for outcome in (
                *(state.value for state in _SETTLED),
                *(_UNRESOLVED, _REFUSED, _INVALID, _PARKED),
            )
        }
        self._refusing = Gauge(
            "orderflow_gateway_refusing",
            "1 while the gateway refuses order after order, and the worker pauses for that.",
            registry=registry,
        )

    def on_batch(self, batch: BatchEnded) -> None:
        for state, count in Tally([order.state for order in batch.changed]).items():
            self._changes[state].inc(count)

    def on_settlement(self, event: SettlementEvent) -> None:
        if isinstance(event, RefusalsWidespread):
            self._refusing.set(event.active)
        else:
            self._payments[_outcome(event)].inc()


def _outcome(event: SettlementDeferred | SettlementParked | OrderSettled) -> str:
    match event:
        case SettlementDeferred():
            return _REFUSED if isinstance(event.cause, PaymentRefused) else _UNRESOLVED
        case SettlementParked():
            return _INVALID if isinstance(event.cause, PaymentInvalid) else _PARKED
        case OrderSettled():
            return event.order.state.value
