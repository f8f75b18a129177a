"""When it is of no use to ask the gateway: its breaker is open, or it refuses order after order."""

from __future__ import annotations

import time

from orderflow_client.resilience.breaker import PROBE_RETRY_AFTER_S
from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent
from orderflow_server.payments.refusals import RefusalWatch


class GatewayPause:
    """Reports when the worker should leave the gateway alone.

    A listener for the policies of the gateway's channel, which has one breaker. Without any event
    it is never a pause.

    Args:
        refusals: Pauses the worker as well, while the gateway refuses order after order.
        clock: The clock of the breaker.
    """

    def __init__(
        self, refusals: RefusalWatch | None = None, *, clock: MonotonicClock = time.monotonic
    ) -> None:
        self._refusals = refusals
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._until_s = clock()

    def __call__(self, event: PolicyEvent) -> None:
        if not isinstance(event, BreakerChanged):
            return
        self._state = event.new
        # A probe that is given up ends in no event: after a while another one is due.
        probing_s = PROBE_RETRY_AFTER_S if event.new is BreakerState.HALF_OPEN else 0.0
        self._until_s = self._clock() + event.open_for_s + probing_s

    @property
    def left_s(self) -> float:
        """Seconds for which the gateway should not be asked; 0 when it may be."""
        by_refusals_s = 0.0 if self._refusals is None else self._refusals.pause_left_s
        return max(0.0, self._until_s - self._clock(), by_refusals_s)

    @property
    def on_trial(self) -> bool:
        """Whether the next call is to find out if the gateway is well again."""
        refuses = self._refusals is not None and self._refusals.widespread
        return refuses or self._state is not BreakerState.CLOSED
