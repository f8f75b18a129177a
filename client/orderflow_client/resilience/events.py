"""What the policies tell those who listen.

A policy knows nothing of logs, metrics or spans: each of them is a listener.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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


Listener = Callable[[RetryScheduled], None]
"""Called while the call waits: it must be quick, and what it raises ends the call."""
