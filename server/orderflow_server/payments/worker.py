"""The background worker: finishes the orders that await the gateway and that nobody else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from orderflow_server.orders.ports import LeasedOrder
from orderflow_server.payments.pause import GatewayPause

Settle = Callable[[LeasedOrder], Awaitable[None]]
"""Makes one attempt at a leased order, and says itself when the next may be made."""


class DueOrders(Protocol):
    """What the worker needs of an `OrderStore`."""

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]: ...


_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How the worker goes about it.

    Attributes:
        concurrency: How many orders are settled at a time; also the most leased at a time.
        poll_interval_s: How long to rest when no more orders are due.
        lease_s: For how long nobody else gets a leased order. Longer than one settlement
            may take, or a second process joins in (harmless, by the payment key, but useless).

    Raises:
        ValueError: When one is out of its range.
    """

    concurrency: int = 16
    poll_interval_s: float = 1.0
    lease_s: float = 30.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if self.poll_interval_s <= 0:
            raise ValueError("poll_interval_s must be positive")
        if self.lease_s <= 0:
            raise ValueError("lease_s must be positive")


class PaymentWorker:
    """Leases due orders and settles them, as many at a time as its options allow.

    Only as many orders are leased as can be started at once, so that no lease runs out while
    its order waits for a turn. An order whose settlement fails or is cancelled is not written
    to: its lease ends and it is given out again, to this process or another.

    While the gateway's breaker is open nothing is leased, and then one order at a time until it
    closes: an outage costs the orders none of their attempts but those that probe it.

    Args:
        pause: Says when the gateway is not to be asked. None: it always may be.
        sleep: Waits the given seconds.
    """

    def __init__(
        self,
        *,
        store: DueOrders,
        settle: Settle,
        options: WorkerOptions,
        pause: GatewayPause | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._settle = settle
        self._options = options
        self._pause = pause or GatewayPause()
        self._sleep = sleep
        self._running: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    def wake(self) -> None:
        """Ends the present rest: an order may be due."""
        self._woken.set()

    async def run(self) -> None:
        """Works until stopped or cancelled; no failure of the store or the gateway ends it.

        Cancelled, it cancels the settlements under way and leaves their orders to their leases.
        """
        self._ended.clear()
        try:
            while not self._stopping.is_set():
                await self._work()
            if self._running:
                await asyncio.wait(self._running)
        finally:
            await self._cut_short()
            self._ended.set()

    async def stop(self, *, timeout_s: float) -> None:
        """Leases nothing more, waits for the settlements under way, and cancels the late ones.

        Then `run` returns, unless the store still keeps it waiting: cancel it after this.
        """
        self._stopping.set()
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            await self._cut_short()

    async def _work(self) -> None:
        """Leases for every free slot; rests when fewer orders were due than that."""
        pause_s = self._pause.left_s
        if pause_s > 0:
            # Not all of it at once: somebody else's call may find the gateway well before.
            await self._rest(min(pause_s, self._options.poll_interval_s), self._stopping)
            return
        most = 1 if self._pause.on_trial else self._options.concurrency
        free = most - len(self._running)
        if free <= 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return
        # Cleared before the store is asked: a wake from now on ends the rest that follows.
        self._woken.clear()
        leased = await self._lease(free)
        for order in leased:
            attempt = asyncio.create_task(self._attempt(order))
            self._running.add(attempt)
            attempt.add_done_callback(self._running.discard)
        if len(leased) < free and not self._stopping.is_set():
            await self._rest(self._options.poll_interval_s, self._woken)

    async def _lease(self, limit: int) -> Sequence[LeasedOrder]:
        """Due orders; while the store fails it is asked again, ever less often."""
        failures = 0
        backoff_s = _FIRST_BACKOFF_S
        while not self._stopping.is_set():
            lease = timedelta(seconds=self._options.lease_s)
            try:
                leased = await self._store.lease_due(lease=lease, limit=limit)
            except Exception as error:  # noqa: BLE001  a loop that ended would leave orders unpaid
                if not failures:  # One line per streak: an outage must not flood the log.
                    _log.warning("the worker cannot lease orders", exc_info=error)
                failures += 1
                await self._rest(backoff_s, self._stopping)
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            else:
                if failures:
                    _log.info("the worker leases orders again", failures=failures)
                return leased
        return ()

    async def _attempt(self, leased: LeasedOrder) -> None:
        try:
            await self._settle(leased)
        except Exception as error:  # noqa: BLE001  the others go on; the lease brings this one back
            _log.warning(
                "an order could not be settled",
                order_id=str(leased.order.id),
                attempt=leased.attempts,
                exc_info=error,
            )

    async def _rest(self, delay_s: float, until: asyncio.Event) -> None:
        """Waits for the delay, or less when the event is set."""
        waits = [
            asyncio.ensure_future(self._sleep(delay_s)),
            asyncio.ensure_future(until.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _cut_short(self) -> None:
        running = set(self._running)
        if not running:
            return
        _log.warning(
            "settlements were cut short, the orders keep their leases", orders=len(running)
        )
        for attempt in running:
            attempt.cancel()
        await asyncio.wait(running)
