"""Health follows the store: SERVING while it writes and its breaker is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent
from orderflow_server.rpc.health import HealthService

log = structlog.get_logger("orderflow.readiness")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessOptions:
    """How often the store is probed, and how long it may fail to write.

    With these a store that stops writing is NOT_SERVING after about 7 s.

    Attributes:
        interval_s: Without a write for this long, the store is probed.
        retry_s: How long after a failed probe the next one begins.
        timeout_s: How long a probe may take.
        patience_s: How long after the last write the service is NOT_SERVING.
    """

    interval_s: float = 2.0
    retry_s: float = 1.0
    timeout_s: float = 3.0
    patience_s: float = 6.0


class Readiness:
    """Keeps health in step with the store, from two sources.

    Writes: a batch that changed orders shows that the store writes; where there was none for a
    while, a probe writes. So under load nothing is probed, and without any call a database that is
    locked, full, hung or read-only is noticed. Breaker: while it is not closed, calls fail.

    The probe does not pass the breaker, which would delay it for up to a minute; when the probe
    succeeds, the breaker makes its own at once.
    """

    def __init__(
        self,
        health: HealthService,
        *,
        options: ReadinessOptions | None = None,
        clock: MonotonicClock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Takes the store for writable until it was not for `patience_s`."""
        self._health = health
        self._options = options or ReadinessOptions()
        self._clock = clock
        self._sleep = sleep
        self._wrote_s = clock()
        self._writable = True
        self._breaker_closed = True

    def on_event(self, event: PolicyEvent) -> None:
        """The listener for the store's breaker."""
        if not isinstance(event, BreakerChanged):
            return
        was_closed, self._breaker_closed = self._breaker_closed, event.new is BreakerState.CLOSED
        if self._breaker_closed != was_closed:
            self._update_health()

    def wrote(self) -> None:
        """Called when orders were changed in the store."""
        self._wrote_s = self._clock()
        if not self._writable:
            self._writable = True
            log.info("database writable again")
            self._update_health()

    async def run(
        self, *, probe: Callable[[], Awaitable[None]], recover: Callable[[], Awaitable[None]]
    ) -> None:
        """Probes the store while nothing else writes, until it is cancelled.

        Args:
            probe: Writes, not through the breaker; raises when that fails.
            recover: Lets the breaker make its probe now; raises when that fails.
        """
        cause: Exception | None = None
        while True:
            await self._sleep(self._options.interval_s if cause is None else self._options.retry_s)
            if self._age_s() < self._options.interval_s:
                cause = None
            else:
                self._give_up_when_late(cause)
                cause = await self._failure_of(probe)
                self._give_up_when_late(cause)
                if cause is None:
                    self.wrote()
            if cause is None and not self._breaker_closed:
                # When that fails, the breaker has counted it.
                await self._failure_of(recover)

    async def _failure_of(self, call: Callable[[], Awaitable[None]]) -> Exception | None:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                await call()
        except Exception as error:  # noqa: BLE001  whatever it is, nothing was written
            return error
        return None

    def _give_up_when_late(self, cause: Exception | None) -> None:
        age_s = self._age_s()
        # Without a failure there was no try either: the process was stopped for a while.
        if cause is not None and self._writable and age_s >= self._options.patience_s:
            self._writable = False
            log.error(
                "database not writable: no write succeeded for a while, health is NOT_SERVING",
                for_s=round(age_s, 1),
                cause=str(cause) or type(cause).__name__,
            )
            self._update_health()

    def _age_s(self) -> float:
        return self._clock() - self._wrote_s

    def _update_health(self) -> None:
        if self._writable and self._breaker_closed:
            self._health.serve()
        else:
            self._health.refuse()
