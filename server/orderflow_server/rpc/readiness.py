"""Health follows the store: while its breaker is not closed, the service says NOT_SERVING."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent
from orderflow_server.rpc.health import HealthService


class Readiness:
    """Listens to the store's breaker, and asks the store itself while nobody else does.

    A service that says NOT_SERVING gets no calls, and without calls a breaker never finds out that
    the store is back.
    """

    def __init__(
        self,
        health: HealthService,
        *,
        interval_s: float = 0.5,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._health = health
        self._interval_s = interval_s
        self._sleep = sleep
        self._down = asyncio.Event()

    def on_event(self, event: PolicyEvent) -> None:
        """The listener for the breaker."""
        if not isinstance(event, BreakerChanged):
            return
        if event.new is BreakerState.CLOSED:
            self._down.clear()
            self._health.serve()
        elif not self._down.is_set():
            self._down.set()
            self._health.refuse()

    async def run(self, ping: Callable[[], Awaitable[None]]) -> None:
        """Asks while the store is down, until it is cancelled.

        Args:
            ping: Asks the store, through its breaker; raises while it is down.
        """
        while True:
            await self._down.wait()
            try:
                await ping()
            except Exception:  # noqa: BLE001  the breaker has counted it; here it means "not yet"
                await self._sleep(self._interval_s)
