"""Whether the service serves, and which version of it this is."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge, Info


def add_service_metrics(
    registry: CollectorRegistry, *, version: str, serving: Callable[[], bool]
) -> None:
    """Adds `orderflow_serving` and `orderflow_build_info`.

    Args:
        registry: Where they are registered.
        version: Of the service.
        serving: Asked at each scrape.
    """
    Gauge(
        "orderflow_serving", "1 while health says SERVING, else 0.", registry=registry
    ).set_function(serving)
    Info("orderflow_build", "The version that runs.", registry=registry).info({"version": version})
