"""What the policies tell those who listen, and the words they say it in.

A policy knows nothing of logs, metrics or spans: each of them is a listener.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class BreakerState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Criticality(IntEnum):
    """How much a call matters when not all can be served: the less, the sooner it is refused.

    The numbers are those of `orderflow.resilience.v1.Criticality`.
    """

    SHEDDABLE = 1
    DEFAULT = 2
    CRITICAL = 3


class ShedReason(StrEnum):
    QUEUE_FULL = "queue_full"
    """No place to wait was left when it arrived."""
    DISPLACED = "displaced"
    """A more critical call took its place."""
    WAITED_TOO_LONG = "waited_too_long"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled:
    """An attempt failed and will be repeated after a delay.

    Attributes:
        name: What is retried, such as `/orderflow.v1.OrderService/GetOrder`.
        attempt: The number of the attempt that failed, from 1.
        delay_s: How long until the next one.
        cause: How the attempt failed.
    """

    name: str
    attempt: int
    delay_s: float
    cause: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted:
    """Another attempt was started while the call has no answer yet.

    Attributes:
        name: What is hedged.
        attempt: The number of the attempt that was started; at least 2.
        cause: How the attempt failed that made it start. None: those before are slow.
    """

    name: str
    attempt: int
    cause: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged:
    """A breaker went from one state to another.

    Attributes:
        name: What it guards.
        old: The state it was in.
        new: The state it is in.
        open_for_s: How long it refuses all calls from now on; 0 unless it opened.
    """

    name: str
    old: BreakerState
    new: BreakerState
    open_for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShed:
    """A limiter refused a call.

    Attributes:
        name: The limiter.
        criticality: Of the call.
        reason: Why it was this one.
        retry_after_s: What its caller is told about when to ask again.
    """

    name: str
    criticality: Criticality
    reason: ShedReason
    retry_after_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged:
    """A limiter lets more or fewer calls run at once than before.

    Attributes:
        name: The limiter.
        old: The limit it had.
        new: The limit it has.
    """

    name: str
    old: int
    new: int


PolicyEvent = RetryScheduled | HedgeStarted | BreakerChanged | CallShed | LimitChanged

Listener = Callable[[PolicyEvent], None]
"""Called while the call waits: it must be quick, and what it raises ends the call."""

RetryListener = Callable[[RetryScheduled], None]
"""One that is told of retries only, and bound to the same."""
