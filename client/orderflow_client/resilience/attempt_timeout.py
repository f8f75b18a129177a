"""A deadline for each attempt, within that of the call."""

from __future__ import annotations

import math
import time

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline, MonotonicClock
from orderflow_client.resilience.policy import Operation, T


class AttemptTimeout:
    """Gives what it runs a deadline of its own, which is never later than the call's.

    It says the time and leaves it to the operation to keep to it: a wire takes
    `deadline.current()` for its timeout, and so does whatever that calls in turn.

    Args:
        timeout_s: The longest an attempt may take.
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
        own = Deadline.after(self._timeout_s, clock=self._clock)
        with deadline.within(deadline.earliest(deadline.current(), own)):
            return await operation()
