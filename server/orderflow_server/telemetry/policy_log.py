"""What the resilience policies do, as log lines."""

from __future__ import annotations

import math
import time

import structlog

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import (
    BreakerChanged,
    BreakerState,
    CallShed,
    HedgeStarted,
    LimitChanged,
    PolicyEvent,
    RetryScheduled,
)
from orderflow_client.status import brief

log = structlog.get_logger("orderflow.resilience")

SHED_LOG_INTERVAL_S = 1.0


def log_policy_event(event: PolicyEvent) -> None:
    """The listener: warning for what is unusual and was dealt with, debug for what is routine."""
    match event:
        case RetryScheduled():
            log.warning(
                "attempt failed, retrying",
                name=event.name,
                attempt=event.attempt,
                delay_ms=round(event.delay_s * 1000),
                cause=brief(event.cause),
            )
        case BreakerChanged():
            write = log.info if event.new is BreakerState.CLOSED else log.warning
            write(
                "breaker changed",
                name=event.name,
                old=event.old,
                new=event.new,
                open_for_ms=round(event.open_for_s * 1000),
            )
        case HedgeStarted():
            log.debug("hedge started", name=event.name, attempt=event.attempt)
        case LimitChanged():
            log.debug("limit changed", name=event.name, old=event.old, new=event.new)
        case CallShed():
            pass  # `ShedLog` counts them.


class ShedLog:
    """The listener for calls that were shed: one warning a second with their number.

    Args:
        clock: What the second is measured with.
    """

    def __init__(self, *, clock: MonotonicClock = time.monotonic) -> None:
        self._clock = clock
        self._calls = 0
        self._written_at_s = -math.inf

    def __call__(self, event: PolicyEvent) -> None:
        if not isinstance(event, CallShed):
            return
        self._calls += 1
        now_s = self._clock()
        if now_s - self._written_at_s < SHED_LOG_INTERVAL_S:
            return
        log.warning(
            "calls shed",
            name=event.name,
            calls=self._calls,
            criticality=event.criticality.name,
            reason=event.reason,
            retry_after_ms=round(event.retry_after_s * 1000),
        )
        self._calls = 0
        self._written_at_s = now_s
