"""A collector that is away is one warning a minute, not one for each span."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

INTERVAL_S = 60.0

_EXPORT_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",  # what went wrong
    "opentelemetry.sdk._shared_internal",  # what was lost of it: the queue is full
)


class OnceAMinute(logging.Filter):
    """Lets one record through and holds the others back for a minute; the next tells their number.

    Args:
        clock: What the minute is measured with, in seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._held_back = 0
        self._passed_at_s = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            now_s = self._clock()
            if now_s - self._passed_at_s < INTERVAL_S:
                self._held_back += 1
                return False
            # A field of the line.
            record.held_back = self._held_back
            self._held_back = 0
            self._passed_at_s = now_s
        # Some are errors there. No order is lost by it, and it ends by itself.
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def quiet_exporters(*, clock: Callable[[], float] = time.monotonic) -> None:
    """All that the exporters say about a collector counts as one.

    The SDK's own filters, which let a record through every 20 s and tell no number, go.
    """
    quiet = OnceAMinute(clock=clock)
    for name in _EXPORT_LOGGERS:
        logging.getLogger(name).filters[:] = [quiet]
