from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from prometheus_client import CollectorRegistry

from fakes.batches import batch_ended
from fakes.orders import NOW, new_order
from orderflow_server.orders.errors import PaymentInvalid, PaymentUnresolved, StoreUnavailable
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.refusals import RefusalsWidespread
from orderflow_server.payments.settlement import (
    OrderSettled,
    SettlementDeferred,
    SettlementEvent,
    SettlementParked,
)
from orderflow_server.telemetry.order_metrics import OrderMetrics

NO_CHANGES = dict.fromkeys(
    ("PENDING_PAYMENT", "PAID", "PAYMENT_DECLINED", "REFUNDING", "CANCELLED"), 0.0
)
NO_PAYMENTS = dict.fromkeys(
    ("PAID", "PAYMENT_DECLINED", "CANCELLED", "unresolved", "refused", "invalid", "parked"), 0.0
)
ORDER = new_order()


def by_label(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    return {
        sample.labels[label]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def changes(registry: CollectorRegistry) -> dict[str, float]:
    return by_label(registry, "orderflow_order_changes_total", "state")


def payments(registry: CollectorRegistry) -> dict[str, float]:
    return by_label(registry, "orderflow_payments_total", "outcome")


def deferred(cause: PaymentUnresolved | PaymentRefused) -> SettlementDeferred:
    return SettlementDeferred(ORDER.id, 1, timedelta(seconds=1), cause)


def test_every_state_and_outcome_is_there_before_the_first_order() -> None:
    registry = CollectorRegistry()
    OrderMetrics(registry)
    assert changes(registry) == NO_CHANGES
    assert payments(registry) == NO_PAYMENTS


def test_each_version_written_counts_for_the_state_that_was_entered() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    paid = ORDER.paid(NOW)
    metrics.on_batch(batch_ended(ORDER, new_order(2), new_order(3)))
    metrics.on_batch(batch_ended(paid, paid.refunding(NOW)))
    assert changes(registry) == NO_CHANGES | {"PENDING_PAYMENT": 3, "PAID": 1, "REFUNDING": 1}


def test_a_batch_that_was_not_written_changes_no_order() -> None:
    registry = CollectorRegistry()
    OrderMetrics(registry).on_batch(batch_ended(size=7, error=StoreUnavailable("no disk")))
    assert changes(registry) == NO_CHANGES


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (OrderSettled(ORDER.paid(NOW)), "PAID"),
        (OrderSettled(ORDER.declined("no funds", NOW)), "PAYMENT_DECLINED"),
        (OrderSettled(ORDER.cancelled(NOW)), "CANCELLED"),
        (deferred(PaymentUnresolved(ORDER.id)), "unresolved"),
        (
            deferred(PaymentRefused(ORDER.id, grpc.StatusCode.FAILED_PRECONDITION, "REFUND_LATER")),
            "refused",
        ),
        (SettlementParked(ORDER.id, 1440, "ANY", PaymentUnresolved(ORDER.id)), "parked"),
        (SettlementParked(ORDER.id, 1, "ANY", PaymentInvalid(ORDER.id, "amount", "")), "invalid"),
    ],
)
def test_a_settlement_is_counted_by_how_it_ended(event: SettlementEvent, outcome: str) -> None:
    registry = CollectorRegistry()
    OrderMetrics(registry).on_settlement(event)
    assert payments(registry) == NO_PAYMENTS | {outcome: 1.0}


def test_a_gateway_that_refuses_order_after_order_shows_in_a_gauge() -> None:
    registry = CollectorRegistry()
    metrics = OrderMetrics(registry)
    for active in (True, False):
        metrics.on_settlement(RefusalsWidespread(active, grpc.StatusCode.UNIMPLEMENTED))
        assert registry.get_sample_value("orderflow_gateway_refusing") == active


def test_a_settled_order_may_be_in_any_state_that_does_not_await_the_gateway() -> None:
    at_rest = {state.value for state in OrderState if not state.awaits_gateway}
    assert at_rest <= NO_PAYMENTS.keys()
