"""A deadline for each attempt, within that of the call."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline, MonotonicClock
from orderflow_client.resilience.policy import Operation, T

_extension_s: ContextVar[float] = ContextVar("orderflow_attempt_extension", default=0.0)


@contextmanager
def extended(timeout_s: float) -> Iterator[None]:
    """Allow calls and attempts made in the block `timeout_s` seconds where policies allow less.

    For background work: it has the time to wait for a slow answer where a caller has not. The
    ambient deadline bounds them all the same.
    """
    token = _extension_s.set(timeout_s)
    try:
        yield
    finally:
        _extension_s.reset(token)


def at_least_extended(timeout_s: float) -> float:
    """Return the longer of a policy's timeout and the extension in force, seconds."""
    return max(timeout_s, _extension_s.get())


class AttemptTimeout:
    """Gives what it runs a deadline of its own, which is never later than the call's.

    It says the time and leaves it to the operation to keep to it: a wire takes
    `deadline.current()` for its timeout, and so does whatever that calls in turn.

    Args:
        timeout_s: The longest an attempt may take, unless it is `extended`.
        clock: What deadlines are measured with.

    Raises:
        ValueError: When the timeout is not positive.
    """

    def __init__(self, timeout_s: float, *, clock: MonotonicClock = time.monotonic) -> None:
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s must be positive, not {timeout_s}")
        self._timeout_s = timeout_s
        self._clock = clock

    async def run(self, operation: Operation[T]) -> T:
        own = Deadline.after(at_least_extended(self._timeout_s), clock=self._clock)
        with deadline.within(deadline.earliest(deadline.current(), own)):
            return await operation()
