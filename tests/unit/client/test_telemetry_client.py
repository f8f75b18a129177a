from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from orderflow_client.telemetry import ClientTelemetry, PolicyMetrics

DEFAULTS = """
from prometheus_client import REGISTRY
from orderflow_client.telemetry import ClientTelemetry
ClientTelemetry()
print("grpc_client_handled" in {metric.name for metric in REGISTRY.collect()})
"""


def names(registry: CollectorRegistry) -> set[str]:
    return {metric.name for metric in registry.collect()}


def test_the_metrics_are_in_the_programs_own_registry_by_default() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DEFAULTS], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "True\n"


def test_a_registry_has_them_once() -> None:
    registry = CollectorRegistry()
    ClientTelemetry(registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        ClientTelemetry(registry=registry)


def test_shares_the_policies_metrics_of_a_program_that_has_some() -> None:
    registry = CollectorRegistry()
    policies = PolicyMetrics(registry)
    ClientTelemetry(registry=registry, policy_metrics=policies)
    assert {"orderflow_retries", "grpc_client_attempts"} <= names(registry)
