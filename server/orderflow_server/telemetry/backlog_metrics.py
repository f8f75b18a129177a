"""What still has to be done, and for how long it has waited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Gauge

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ports import Backlog, Waiting

log = structlog.get_logger("orderflow.metrics")

INTERVAL_S = 5.0


class BacklogMetrics:
    """`orderflow_orders_pending*`, `orderflow_orders_parked` and `orderflow_outbox_*`.

    They are what the store last told.

    To the ages the time since that answer is added whenever they are read. So while the store does
    not answer the numbers stay as they were and the ages go on growing, as those of the orders do.

    Args:
        clock: Measures the time since the last answer.
        interval_s: How long to rest between two questions to the store.
        sleep: Waits the given seconds.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        clock: MonotonicClock = time.monotonic,
        interval_s: float = INTERVAL_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._sleep = sleep
        self._backlog = Backlog(orders={})
        self._read_at_s = clock()
        pending = Gauge(
            "orderflow_orders_pending",
            "Orders that await the payment gateway, by state; without those that are parked.",
            ("state",),
            registry=registry,
        )
        age = Gauge(
            "orderflow_orders_pending_age_seconds",
            "For how long the oldest of them has been in that state; 0 when there is none.",
            ("state",),
            registry=registry,
        )
        for state in OrderState:
            if state.awaits_gateway:
                pending.labels(state.value).set_function(partial(self._pending, state))
                age.labels(state.value).set_function(partial(self._pending_age_s, state))
        Gauge(
            "orderflow_orders_parked",
            "Orders that nobody asks the payment gateway about until a person releases them.",
            registry=registry,
        ).set_function(lambda: self._backlog.parked)
        Gauge(
            "orderflow_outbox_waiting",
            "Events ready to be published; neither refused ones nor those that wait behind them.",
            registry=registry,
        ).set_function(lambda: self._backlog.events.count)
        Gauge(
            "orderflow_outbox_lag_seconds",
            "Age of the oldest event that is ready to be published; 0 when there is none.",
            registry=registry,
        ).set_function(lambda: self._age_s(self._backlog.events.age))
        Gauge(
            "orderflow_outbox_refused",
            "Events that the stream refused and that no operator has retried or skipped.",
            registry=registry,
        ).set_function(lambda: self._backlog.refused)

    async def run(self, read: Callable[[], Awaitable[Backlog]]) -> None:
        """Asks again and again, until it is cancelled; no failure of the store ends it.

        Args:
            read: Asks the store.
        """
        failing = False
        while True:
            try:
                self._backlog = await read()
                self._read_at_s = self._clock()
            except Exception as error:
                if not failing:  # One line per streak: an outage must not flood the log.
                    log.warning("the backlog cannot be read", exc_info=error)
                failing = True
            else:
                failing = False
            await self._sleep(self._interval_s)

    def _waiting(self, state: OrderState) -> Waiting:
        return self._backlog.orders.get(state, Waiting())

    def _pending(self, state: OrderState) -> int:
        return self._waiting(state).count

    def _pending_age_s(self, state: OrderState) -> float:
        return self._age_s(self._waiting(state).age)

    def _age_s(self, age: timedelta | None) -> float:
        return 0.0 if age is None else age.total_seconds() + self._clock() - self._read_at_s
