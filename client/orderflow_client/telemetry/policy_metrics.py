"""What the resilience policies do, as metrics: a listener, for either side."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from orderflow_client.resilience.events import (
    BreakerChanged,
    BreakerState,
    CallShed,
    Criticality,
    HedgeStarted,
    PolicyEvent,
    RetryScheduled,
    ShedReason,
)
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.resilience.retry import RetryBudget
from orderflow_client.telemetry.conventions import METHOD_LABEL, SERVICE_LABEL

_BREAKER_LABELS = ("breaker", "state")
_METHOD_LABELS = (SERVICE_LABEL, METHOD_LABEL)


class PolicyMetrics:
    """Retries, hedges, retry budgets, breakers and limiters.

    What is told by events is counted; what has a value at any time must be declared with one of
    the `watch_...` methods, and is read when the metrics are.

    Args:
        registry: Where the metrics are registered, once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._retries = Counter(
            "orderflow_retries",
            "Attempts repeated after one that failed.",
            _METHOD_LABELS,
            registry=registry,
        )
        self._hedges = Counter(
            "orderflow_hedges",
            "Attempts started while another had no answer yet.",
            _METHOD_LABELS,
            registry=registry,
        )
        self._budget = Gauge(
            "orderflow_retry_budget_tokens",
            "Tokens left for retries, of 10; at 5 or fewer nothing is retried.",
            ["target"],
            registry=registry,
        )
        self._breaker = Gauge(
            "orderflow_breaker_state",
            "1 for the state that the breaker is in, 0 for the others.",
            _BREAKER_LABELS,
            registry=registry,
        )
        self._transitions = Counter(
            "orderflow_breaker_transitions",
            "How often the breaker entered the state.",
            _BREAKER_LABELS,
            registry=registry,
        )
        self._limit = Gauge(
            "orderflow_limiter_limit", "Calls that may run at once.", ["limiter"], registry=registry
        )
        self._in_flight = Gauge(
            "orderflow_limiter_in_flight", "Calls that run.", ["limiter"], registry=registry
        )
        self._waiting = Gauge(
            "orderflow_limiter_waiting",
            "Calls that wait for a place.",
            ["limiter"],
            registry=registry,
        )
        self._rejections = Counter(
            "orderflow_limiter_rejections",
            "Calls refused.",
            ["limiter", "reason", "criticality"],
            registry=registry,
        )

    def __call__(self, event: PolicyEvent) -> None:
        """The listener."""
        match event:
            case RetryScheduled():
                self._retries.labels(*_names(event.name)).inc()
            case HedgeStarted():
                self._hedges.labels(*_names(event.name)).inc()
            case BreakerChanged():
                self._transitions.labels(event.name, event.new.value).inc()
                self._show(event.name, event.new)
            case CallShed():
                self._rejections.labels(
                    event.name, event.reason.value, event.criticality.name.lower()
                ).inc()
            # Others need not be told: their values are read.

    def watch_budget(self, budget: RetryBudget, target: str) -> None:
        """Shows the tokens of a channel's retry budget; of several to one target, the latest's."""
        self._budget.labels(target).set_function(lambda: budget.tokens)

    def watch_breaker(self, name: str) -> None:
        """Shows a breaker as closed, which it is until it tells otherwise."""
        for state in BreakerState:
            self._transitions.labels(name, state.value)
        self._show(name, BreakerState.CLOSED)

    def watch_limiter(self, limiter: Limiter, name: str) -> None:
        """Shows what a limiter allows and how much of it is used."""
        self._limit.labels(name).set_function(lambda: limiter.limit)
        self._in_flight.labels(name).set_function(lambda: limiter.in_flight)
        self._waiting.labels(name).set_function(lambda: limiter.waiting)
        for reason in ShedReason:
            for criticality in Criticality:
                self._rejections.labels(name, reason.value, criticality.name.lower())

    def _show(self, breaker: str, current: BreakerState) -> None:
        for state in BreakerState:
            self._breaker.labels(breaker, state.value).set(state is current)


def _names(name: str) -> tuple[str, str]:
    """Service and method of `/package.Service/Method`; of another name, none and the name."""
    service, _, method = name.lstrip("/").rpartition("/")
    return service, method
