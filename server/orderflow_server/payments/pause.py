"""When it is of no use to ask the gateway: its breaker is open, and says for how long."""

from __future__ import annotations

import time

from orderflow_client.resilience.breaker import PROBE_RETRY_AFTER_S
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent


class GatewayPause:
    """Listens to the gateway's breaker, so that the worker need not run into it with every order.

    A listener for the policies of the gateway's channel, which has one breaker. Told of none, it
    is never a pause.

    Args:
        clock: What the breaker measures with.
    """

    def __init__(self, *, clock: MonotonicClock = time.monotonic) -> None:
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._until_s = clock()

    def __call__(self, event: PolicyEvent) -> None:
        if not isinstance(event, BreakerChanged):
            return
        self._state = event.new
        # A probe that is given up ends in no event: after a while somebody has to try again.
        probing_s = PROBE_RETRY_AFTER_S if event.new is BreakerState.HALF_OPEN else 0.0
        self._until_s = self._clock() + event.open_for_s + probing_s

    @property
    def left_s(self) -> float:
        """For how many seconds nothing should be asked; 0 when something may be."""
        return max(0.0, self._until_s - self._clock())

    @property
    def on_trial(self) -> bool:
        """Whether the next call would be the breaker's probe, and all others beside it refused."""
        return self._state is not BreakerState.CLOSED
