"""Log lines on their way to a collector, as OpenTelemetry's log records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from structlog.typing import EventDict, WrappedLogger

from orderflow_client.telemetry.conventions import SPAN_ID, TRACE_ID

_SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
# The record has them in places of their own.
_NOT_ATTRIBUTES = frozenset({"event", "level", "timestamp", TRACE_ID, SPAN_ID})


class OtlpLogs:
    """The processor: hands each line over as a record, and leaves the line as it is.

    It comes after the redaction. What the exporters themselves say goes to stdout only: it would
    be a record that cannot be sent, about records that cannot be sent.

    Args:
        logger: Takes the records. It must not wait.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        # The exporters suppress instrumentation in their threads; elsewhere they go by their name.
        name = str(event.get("logger", ""))
        if is_instrumentation_enabled() and not name.startswith("opentelemetry."):
            level = event.get("level", method)
            self._logger.emit(
                timestamp=time.time_ns(),
                severity_number=_SEVERITIES.get(level, SeverityNumber.UNSPECIFIED),
                severity_text=level,
                body=_sendable(event.get("event")),
                attributes={
                    key: _sendable(value)
                    for key, value in event.items()
                    if key not in _NOT_ATTRIBUTES
                },
            )
        return event


def _sendable(value: Any) -> Any:
    """What a record can hold: one that it cannot would cost the whole batch that it is in."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, Mapping):
        return {str(key): _sendable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(inner) for inner in value]
    return _sendable(repr(value))
