"""Settlement: asks the gateway about one order and writes down what it said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import PaymentUnresolved, VersionConflict
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import (
    Clock,
    LeasedOrder,
    OrderStore,
    Payment,
    PaymentGateway,
)
from orderflow_server.orders.settling import after_payment
from orderflow_server.payments.gateway import PaymentRefused, was_asked

MAX_ATTEMPTS = 1440
"""A day: after the first six attempts of the worker they come once a minute (`retry_delay`)."""


@dataclass(frozen=True, slots=True)
class SettlementDeferred:
    """An order could not be settled this time and will be tried again.

    Attributes:
        attempts: How often the background worker has tried so far; 0 for the caller's own try.
        delay: How long the order rests before the next attempt.
        cause: Why there was no outcome.
        asked: Whether the gateway was asked; False: its breaker is open.
    """

    order_id: UUID
    attempts: int
    delay: timedelta
    cause: PaymentUnresolved | PaymentRefused
    asked: bool = True


@dataclass(frozen=True, slots=True)
class SettlementParked:
    """An order will not be tried again until a person has looked and releases it.

    Attributes:
        attempts: How often the background worker has tried.
        cause: Why the last attempt had no outcome.
    """

    order_id: UUID
    attempts: int
    cause: PaymentUnresolved | PaymentRefused


@dataclass(frozen=True, slots=True)
class OrderSettled:
    """The gateway's answer was written down."""

    order: Order


SettlementEvent = SettlementDeferred | SettlementParked | OrderSettled
SettlementListener = Callable[[SettlementEvent], None]


class Settlement:
    """Settles orders. Implements the port `Settler`.

    Each attempt is a task of its own: a caller that gives up or is cancelled only stops
    waiting, and callers that ask for the same version of an order share one attempt. Another
    version is another question: a refund does not wait for the charge that it gives back. The
    gateway has to answer within the first caller's budget less `reserve_s`, which is kept for
    the write.

    Without an outcome the order is tried again later, under the same payment key, which finds out
    about a charge whose answer was lost. What the worker has tried too often, or the gateway
    refuses it, is parked: a person has to look. A caller's own try parks nothing: what it was
    refused the worker asks once more.

    Args:
        reserve_s: Seconds of each budget that the gateway does not get.
        retry_delay: How long an order rests after `attempts` attempts of the worker.
        max_attempts: After this many attempts of the worker an order is parked. One that did not
            get past the gateway's breaker is never the last.
    """

    def __init__(
        self,
        *,
        store: OrderStore,
        gateway: PaymentGateway,
        now: Clock,
        reserve_s: float,
        retry_delay: Callable[[int], timedelta],
        listener: SettlementListener,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._now = now
        self._reserve_s = reserve_s
        self._retry_delay = retry_delay
        self._listener = listener
        self._max_attempts = max_attempts
        self._running: dict[tuple[UUID, int], asyncio.Task[Order]] = {}

    async def settle(self, order: Order, *, budget_s: float) -> Order:
        return await self._join(order, attempts=0, budget_s=budget_s)

    async def settle_leased(self, leased: LeasedOrder, *, budget_s: float) -> None:
        """One attempt of the background worker."""
        await self._join(leased.order, attempts=leased.attempts, budget_s=budget_s)

    async def _join(self, order: Order, *, attempts: int, budget_s: float) -> Order:
        key = (order.id, order.version)
        attempt = self._running.get(key)
        if attempt is None:
            attempt = asyncio.create_task(
                self._attempt(order, attempts, budget_s - self._reserve_s)
            )
            self._running[key] = attempt
            attempt.add_done_callback(partial(self._ended, key))
        await _ended_within(budget_s, attempt)
        # Cancelled: the process is going away, and the order's lease brings it back elsewhere.
        return attempt.result() if attempt.done() and not attempt.cancelled() else order

    def _ended(self, key: tuple[UUID, int], attempt: asyncio.Task[Order]) -> None:
        del self._running[key]
        if not attempt.cancelled():
            # Marks it as seen: with no caller left there is nobody to tell, and the order's
            # lease brings it back.
            attempt.exception()

    async def _attempt(self, order: Order, attempts: int, timeout_s: float) -> Order:
        # The gateway keeps to this attempt's time. The writes keep to none: an outcome that is
        # known is worth writing down however late it is.
        gateway_deadline = Deadline.after(timeout_s)
        deadline.enter(None)
        while order.state.awaits_gateway:
            try:
                with deadline.within(gateway_deadline):
                    payment = await self._ask_gateway(order)
            except (PaymentUnresolved, PaymentRefused) as cause:
                await self._put_off(order, attempts, cause)
                return order
            following = after_payment(order, payment, self._now())
            try:
                await self._store.save(following)
            except VersionConflict:
                order = await self._store.get(order.id)
            else:
                self._listener(OrderSettled(following))
                return following
        return order

    async def _ask_gateway(self, order: Order) -> Payment:
        if order.state is OrderState.REFUNDING:
            return await self._gateway.refund(order)
        return await self._gateway.charge(order)

    async def _put_off(
        self, order: Order, attempts: int, cause: PaymentUnresolved | PaymentRefused
    ) -> None:
        asked = was_asked(cause)
        spent = attempts >= self._max_attempts and asked
        if attempts > 0 and (spent or isinstance(cause, PaymentRefused)):
            await self._store.park(order.id, reason=str(cause))
            self._listener(SettlementParked(order.id, attempts, cause))
            return
        delay = self._retry_delay(attempts)
        await self._store.defer(order.id, delay=delay)
        self._listener(SettlementDeferred(order.id, attempts, delay, cause, asked))

    async def drain(self, *, timeout_s: float) -> None:
        """Waits for the attempts under way, then cancels what is left.

        A cancelled attempt loses nothing: its order's lease ends and another process asks the
        gateway again, under the same key.
        """
        attempts = set(self._running.values())
        if not attempts:
            return
        _, late = await asyncio.wait(attempts, timeout=timeout_s)
        for attempt in late:
            attempt.cancel()
        if late:
            await asyncio.wait(late)


async def _ended_within(timeout_s: float, attempt: asyncio.Task[Order]) -> None:
    """Returns when the attempt has ended, or the time: `asyncio.wait` for one, which costs less."""
    loop = asyncio.get_running_loop()
    either = loop.create_future()

    def end(_: object = None) -> None:
        if not either.done():
            either.set_result(None)

    timer = loop.call_later(timeout_s, end)
    attempt.add_done_callback(end)
    try:
        await either
    finally:
        timer.cancel()
        attempt.remove_done_callback(end)
