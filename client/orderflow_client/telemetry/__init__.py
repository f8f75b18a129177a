"""Spans, metrics and log lines of calls. Needs the extra `orderflow-client[telemetry]`."""
