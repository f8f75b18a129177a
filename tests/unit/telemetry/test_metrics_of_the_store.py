from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from fakes.batches import batch_ended
from fakes.orders import new_order
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.telemetry.store_metrics import StoreMetrics

OUTCOMES = ("written", "failed", "poisoned")


def batches(registry: CollectorRegistry) -> dict[str, float | None]:
    return {
        outcome: registry.get_sample_value("orderflow_store_batches_total", {"outcome": outcome})
        for outcome in OUTCOMES
    }


def test_every_outcome_is_there_before_the_first_batch() -> None:
    registry = CollectorRegistry()
    StoreMetrics(registry)
    assert batches(registry) == dict.fromkeys(OUTCOMES, 0.0)
    assert registry.get_sample_value("orderflow_store_queue_depth") == 0


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "written"),
        (StoreUnavailable("the disk is gone"), "failed"),
        (PoisonedBatch(), "poisoned"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_a_batch_is_counted_by_what_became_of_it(error: Exception | None, outcome: str) -> None:
    registry = CollectorRegistry()
    StoreMetrics(registry).on_batch(batch_ended(size=3, error=error))
    assert batches(registry) == dict.fromkeys(OUTCOMES, 0.0) | {outcome: 1.0}


def test_batches_are_told_with_their_size_and_duration() -> None:
    registry = CollectorRegistry()
    metrics = StoreMetrics(registry)
    metrics.on_batch(batch_ended(new_order(1), duration_s=0.25))
    metrics.on_batch(batch_ended(new_order(2), size=200, duration_s=0.5))
    assert registry.get_sample_value("orderflow_store_batch_commands_sum") == 201
    assert registry.get_sample_value("orderflow_store_batch_commands_bucket", {"le": "1.0"}) == 1
    assert registry.get_sample_value("orderflow_store_batch_commands_bucket", {"le": "256.0"}) == 2
    assert registry.get_sample_value("orderflow_store_batch_seconds_sum") == 0.75
    assert registry.get_sample_value("orderflow_store_batch_seconds_bucket", {"le": "0.25"}) == 1


def test_the_queue_is_looked_at_when_it_is_asked_for() -> None:
    registry = CollectorRegistry()
    waiting = [1, 2, 3]
    StoreMetrics(registry).watch_queue(lambda: len(waiting))
    assert registry.get_sample_value("orderflow_store_queue_depth") == 3
    waiting.clear()
    assert registry.get_sample_value("orderflow_store_queue_depth") == 0
