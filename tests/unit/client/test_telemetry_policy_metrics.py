from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from orderflow_client.resilience.events import (
    BreakerChanged,
    BreakerState,
    CallShed,
    Criticality,
    HedgeStarted,
    LimitChanged,
    RetryScheduled,
    ShedReason,
)
from orderflow_client.resilience.limiter import Limiter, Overloaded, QueueOptions
from orderflow_client.resilience.limits import FixedLimit
from orderflow_client.resilience.retry import RetryBudget
from orderflow_client.telemetry import PolicyMetrics

PATH = "/orderflow.v1.OrderService/GetOrder"
METHOD = {"grpc_service": "orderflow.v1.OrderService", "grpc_method": "GetOrder"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> PolicyMetrics:
    return PolicyMetrics(registry)


def test_counts_retries_by_method(metrics: PolicyMetrics, registry: CollectorRegistry) -> None:
    event = RetryScheduled(name=PATH, attempt=1, delay_s=0.1, cause=ValueError())
    metrics(event)
    metrics(event)
    assert registry.get_sample_value("orderflow_retries_total", METHOD) == 2


def test_counts_hedges_by_method(metrics: PolicyMetrics, registry: CollectorRegistry) -> None:
    metrics(HedgeStarted(name=PATH, attempt=2, cause=None))
    assert registry.get_sample_value("orderflow_hedges_total", METHOD) == 1


def test_counts_what_is_no_method_by_its_name(
    metrics: PolicyMetrics, registry: CollectorRegistry
) -> None:
    metrics(RetryScheduled(name="publish", attempt=1, delay_s=0.1, cause=ValueError()))
    labels = {"grpc_service": "", "grpc_method": "publish"}
    assert registry.get_sample_value("orderflow_retries_total", labels) == 1


def test_shows_the_tokens_of_a_budget_as_they_are(
    metrics: PolicyMetrics, registry: CollectorRegistry
) -> None:
    budget = RetryBudget()
    metrics.watch_budget(budget, "there")
    budget.on_failure()
    labels = {"target": "there"}
    assert registry.get_sample_value("orderflow_retry_budget_tokens", labels) == 9


class TestBreaker:
    def states(self, registry: CollectorRegistry, metric: str) -> list[float | None]:
        return [
            registry.get_sample_value(metric, {"breaker": "store", "state": state})
            for state in ("closed", "open", "half_open")
        ]

    def test_is_closed_from_the_start(
        self, metrics: PolicyMetrics, registry: CollectorRegistry
    ) -> None:
        metrics.watch_breaker("store")
        assert self.states(registry, "orderflow_breaker_state") == [1, 0, 0]
        assert self.states(registry, "orderflow_breaker_transitions_total") == [0, 0, 0]

    def test_is_in_one_state_at_a_time(
        self, metrics: PolicyMetrics, registry: CollectorRegistry
    ) -> None:
        metrics.watch_breaker("store")
        for old, new, shown in (
            (BreakerState.CLOSED, BreakerState.OPEN, [0, 1, 0]),
            (BreakerState.OPEN, BreakerState.HALF_OPEN, [0, 0, 1]),
            (BreakerState.HALF_OPEN, BreakerState.OPEN, [0, 1, 0]),
        ):
            metrics(BreakerChanged(name="store", old=old, new=new, open_for_s=0))
            assert self.states(registry, "orderflow_breaker_state") == shown
        assert self.states(registry, "orderflow_breaker_transitions_total") == [0, 2, 1]


class TestLimiter:
    def shed(self, registry: CollectorRegistry, reason: str, criticality: str) -> float | None:
        labels = {"limiter": "calls", "reason": reason, "criticality": criticality}
        return registry.get_sample_value("orderflow_limiter_rejections_total", labels)

    async def test_is_read_when_the_metrics_are(
        self, metrics: PolicyMetrics, registry: CollectorRegistry
    ) -> None:
        limiter = Limiter(
            FixedLimit(1), name="calls", queue=QueueOptions(max_waiting=0), listeners=[metrics]
        )
        metrics.watch_limiter(limiter, "calls")
        permit = await limiter.acquire()
        with pytest.raises(Overloaded):
            await limiter.acquire()

        def value(metric: str) -> float | None:
            return registry.get_sample_value(f"orderflow_limiter_{metric}", {"limiter": "calls"})

        assert [value("limit"), value("in_flight"), value("waiting")] == [1, 1, 0]
        permit.release()
        assert value("in_flight") == 0
        assert self.shed(registry, "queue_full", "default") == 1

    def test_has_refused_none_at_first(
        self, metrics: PolicyMetrics, registry: CollectorRegistry
    ) -> None:
        metrics.watch_limiter(Limiter(FixedLimit(1), name="calls"), "calls")
        assert self.shed(registry, "displaced", "sheddable") == 0

    def test_is_told_of_refusals_by_reason_and_criticality(
        self, metrics: PolicyMetrics, registry: CollectorRegistry
    ) -> None:
        metrics(
            CallShed(
                name="calls",
                criticality=Criticality.CRITICAL,
                reason=ShedReason.WAITED_TOO_LONG,
                retry_after_s=1,
            )
        )
        metrics(LimitChanged(name="calls", old=1, new=2))
        assert self.shed(registry, "waited_too_long", "critical") == 1
