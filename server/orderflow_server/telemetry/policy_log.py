"""What the resilience policies do, as log lines."""

from __future__ import annotations

import structlog

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
        case CallShed():
            log.debug(
                "call shed",
                name=event.name,
                criticality=event.criticality.name,
                reason=event.reason,
                retry_after_ms=round(event.retry_after_s * 1000),
            )
        case LimitChanged():
            log.debug("limit changed", name=event.name, old=event.old, new=event.new)
