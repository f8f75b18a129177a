from __future__ import annotations

from prometheus_client import CollectorRegistry

from orderflow_server.telemetry.service_metrics import add_service_metrics


def test_serving_is_what_health_says_at_the_time() -> None:
    registry = CollectorRegistry()
    answers = [False, True]
    add_service_metrics(registry, version="1.2.3", serving=lambda: answers.pop())
    assert registry.get_sample_value("orderflow_serving") == 1
    assert registry.get_sample_value("orderflow_serving") == 0


def test_the_version_is_a_label() -> None:
    registry = CollectorRegistry()
    add_service_metrics(registry, version="1.2.3", serving=lambda: True)
    assert registry.get_sample_value("orderflow_build_info", {"version": "1.2.3"}) == 1
