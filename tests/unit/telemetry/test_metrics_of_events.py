from __future__ import annotations

from prometheus_client import CollectorRegistry

from fakes.orders import new_order
from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventRefused,
    EventSetAside,
    LeadChanged,
    PublishFailed,
)
from orderflow_server.orders.ports import OutboxEvent
from orderflow_server.telemetry.event_metrics import EventMetrics

EVENT = OutboxEvent(1, new_order())
PUBLISHED = "orderflow_events_published_total"
FAILED = "orderflow_events_publish_failures_total"
REFUSED = "orderflow_events_refused_total"
LEADING = "orderflow_relay_leading"


def test_publications_and_failures_are_counted() -> None:
    registry = CollectorRegistry()
    metrics = EventMetrics(registry)
    assert registry.get_sample_value(PUBLISHED) == 0
    assert registry.get_sample_value(FAILED) == 0
    for _ in range(3):
        metrics.on_event(EventPublished(EVENT))
    metrics.on_event(EventNotPublished(EVENT, PublishFailed("no NATS")))
    assert registry.get_sample_value(REFUSED) == 0
    for _ in range(2):
        metrics.on_event(EventSetAside(EVENT, EventRefused("too large")))
    assert registry.get_sample_value(REFUSED) == 2
    assert registry.get_sample_value(PUBLISHED) == 3
    assert registry.get_sample_value(FAILED) == 1


def test_it_shows_whether_this_process_publishes() -> None:
    registry = CollectorRegistry()
    metrics = EventMetrics(registry)
    shown = [registry.get_sample_value(LEADING)]
    for leads in (True, False):
        metrics.on_event(LeadChanged(leads))
        shown.append(registry.get_sample_value(LEADING))
    assert shown == [0, 1, 0]
