"""Spans, metrics and log lines of calls. Needs the extra `orderflow-client[telemetry]`."""

from orderflow_client.telemetry.client_telemetry import ClientTelemetry
from orderflow_client.telemetry.policy_metrics import PolicyMetrics

__all__ = ["ClientTelemetry", "PolicyMetrics"]
