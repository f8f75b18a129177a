"""What becomes of the events of orders."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventSetAside,
    LeadChanged,
    RelayEvent,
)


class EventMetrics:
    """`orderflow_events_*` and `orderflow_relay_leading`.

    Its `on_event` is for the relay's listener.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._published = Counter(
            "orderflow_events_published",
            "Events published; one that was published again counts again.",
            registry=registry,
        )
        self._failures = Counter(
            "orderflow_events_publish_failures",
            "Attempts to publish an event that failed, or were not acknowledged in time.",
            registry=registry,
        )
        self._refused = Counter(
            "orderflow_events_refused",
            "Events that the stream refused and that were set aside.",
            registry=registry,
        )
        self._leading = Gauge(
            "orderflow_relay_leading",
            "1 while this process is the one that publishes events.",
            registry=registry,
        )

    def on_event(self, event: RelayEvent) -> None:
        match event:
            case EventPublished():
                self._published.inc()
            case EventNotPublished():
                self._failures.inc()
            case EventSetAside():
                self._refused.inc()
            case LeadChanged():
                self._leading.set(event.leads)
