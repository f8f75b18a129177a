"""The background worker: settles the orders that await the gateway and that no caller settles."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog

from orderflow_client.resilience.ramp import RecoveryRamp
from orderflow_server.orders.ports import REPEATED_ATTEMPTS, LeasedOrder
from orderflow_server.payments.pause import GatewayPause

Settle = Callable[[LeasedOrder], Awaitable[None]]
"""Makes one attempt at a leased order, and sets itself when the next may be made."""


class DueOrders(Protocol):
    """The part of an `OrderStore` that the worker needs."""

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]: ...


_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0
_REPEATED_SHARE = 0.25

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of the worker.

    Attributes:
        concurrency: How many orders are settled at a time; also the most leased at a time. A
            quarter of them at most, and one at least, may be orders that failed repeatedly.
        poll_interval_s: How long to rest when no more orders are due.
        lease_s: How long a leased order is given to no other process. Longer than one settlement
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

    Only as many orders are leased as can be started at once, so that no lease ends while its order
    waits for a turn. An order whose settlement fails or is cancelled is not written to: its lease
    ends and it is given out again, to this process or another. Fresh orders come before those that
    failed repeatedly, which never hold more than their share of the slots.

    While the gateway's breaker is open nothing is leased, and then one order at a time until it
    closes, a fresh one if there is any: an outage costs the orders none of their attempts but those
    that probe it. After that the rate grows as the ramp allows.

    Args:
        pause: Reports when the gateway is not to be asked. None: it always may be.
        ramp: Bounds the rate after an outage. None: nothing does.
        sleep: Waits the given seconds.
    """

    def __init__(
        self,
        *,
        store: DueOrders,
        settle: Settle,
        options: WorkerOptions,
        pause: GatewayPause | None = None,
        ramp: RecoveryRamp | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._settle = settle
        self._options = options
        self._pause = pause or GatewayPause()
        self._ramp = ramp or RecoveryRamp(max_per_s=math.inf)
        self._sleep = sleep
        self._running: dict[asyncio.Task[None], LeasedOrder] = {}
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
        """Lease for every free slot; rest when fewer orders were due than that."""
        pause_s = self._pause.left_s
        if pause_s > 0:
            # Not all of it at once: another caller may find the gateway well before.
            await self._rest(min(pause_s, self._options.poll_interval_s), self._stopping)
            return
        on_trial = self._pause.on_trial
        free = (1 if on_trial else self._options.concurrency) - len(self._running)
        if free <= 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return
        wanted = self._ramp.take(free)
        if wanted <= 0:
            await self._rest(self._ramp.rest_s, self._stopping)
            return
        # Cleared before the store is asked: a wake from now on ends the rest that follows.
        self._woken.clear()
        most_repeated = max(1, int(self._options.concurrency * _REPEATED_SHARE))
        repeated = max(0, most_repeated - sum(map(_failed_repeatedly, self._running.values())))
        # A probe should be about the gateway, and not about an order with a fault of its own.
        leased = await self._lease(wanted, 0) if on_trial and repeated else ()
        if not leased:
            leased = await self._lease(wanted, repeated)
        self._ramp.started(len(leased))
        for order in leased:
            attempt = asyncio.create_task(self._attempt(order))
            self._running[attempt] = order
            attempt.add_done_callback(self._attempt_ended)
        if len(leased) < wanted:
            self._ramp.ends()
            if not self._stopping.is_set():
                await self._rest(self._options.poll_interval_s, self._woken)

    async def _lease(self, limit: int, repeated: int) -> Sequence[LeasedOrder]:
        """Lease due orders; while the store fails, ask it again, ever less often."""
        failures = 0
        backoff_s = _FIRST_BACKOFF_S
        lease = timedelta(seconds=self._options.lease_s)
        while not self._stopping.is_set():
            try:
                leased = await self._store.lease_due(lease=lease, limit=limit, repeated=repeated)
            except Exception as error:  # noqa: BLE001  a loop that ended would leave orders unpaid
                if not failures:  # One line per streak: an outage must not flood the log.
                    _log.warning("cannot lease orders, trying again", exc_info=error)
                failures += 1
                await self._rest(backoff_s, self._stopping)
                backoff_s = min(backoff_s * 2, _MAX_BACKOFF_S)
            else:
                if failures:
                    _log.info("orders can be leased again", failures=failures)
                return leased
        return ()

    def _attempt_ended(self, attempt: asyncio.Task[None]) -> None:
        if _failed_repeatedly(self._running.pop(attempt)):
            self.wake()  # Another of them may have its slot.

    async def _attempt(self, leased: LeasedOrder) -> None:
        try:
            await self._settle(leased)
        except Exception as error:  # noqa: BLE001  the others go on; the lease brings this one back
            _log.warning(
                "order not settled, its lease brings it back",
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


def _failed_repeatedly(leased: LeasedOrder) -> bool:
    # This attempt included, which has not failed yet.
    return leased.attempts > REPEATED_ATTEMPTS
