"""Settlement: asks the gateway about one order and saves the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from uuid import UUID

from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import extended
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import (
    PaymentInvalid,
    PaymentUnresolved,
    VersionConflict,
)
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import (
    Clock,
    LeasedOrder,
    OrderStore,
    Payment,
    PaymentGateway,
)
from orderflow_server.orders.settling import after_payment, parking_reason
from orderflow_server.payments.gateway import PaymentRefused, refusal_code, was_asked
from orderflow_server.payments.refusals import RefusalsWidespread, RefusalWatch

REFUSED = "REFUSED"
"""Begins the reason of an order that is parked because the gateway refuses it: REFUSED_<status>."""
ATTEMPTS_EXHAUSTED = "ATTEMPTS_EXHAUSTED"

ATTEMPTS_BEFORE_REFUSAL = 2
"""A refused order is parked after this many attempts of the worker, not before."""

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
        reason: A code, and after a colon more about it.
        cause: Why the last attempt had no outcome.
    """

    order_id: UUID
    attempts: int
    reason: str
    cause: PaymentUnresolved | PaymentRefused | PaymentInvalid


@dataclass(frozen=True, slots=True)
class OrderSettled:
    """The gateway's answer was written down."""

    order: Order


SettlementEvent = SettlementDeferred | SettlementParked | OrderSettled | RefusalsWidespread
_FIRST_PATIENCE_S = 2.5
"""How long the worker's first attempt waits for one answer; each later one twice as long."""

_MAX_REASON = 200
"""The rest of a gateway's longer reason is cut."""

SettlementListener = Callable[[SettlementEvent], None]


class Settlement:
    """Settles orders. Implements the port `Settler`.

    Each attempt is a task of its own: a caller that gives up or is cancelled only stops
    waiting, and callers that ask for the same version of an order share one attempt. Another
    version is another question: a refund does not wait for the charge that it gives back. The
    channel to the gateway keeps a part of the first caller's time for the write and the answer.

    Without an outcome the order is tried again later, under the same payment key. The worker asks
    the gateway for the payment before it charges, because an earlier charge may have succeeded
    with its answer lost or late. An order that the worker has tried too often, that the gateway
    refuses repeatedly, or that it answers wrongly is parked: a person has to look. A caller's own
    attempt parks nothing but after a wrong answer.

    Args:
        retry_delay: How long an order rests after `attempts` attempts of the worker.
        refusals: Counts the gateway's refusals; while they hit many orders none is parked for one.
        max_attempts: After this many attempts of the worker an order is parked. One that did not
            get past the gateway's breaker is never the last.
    """

    def __init__(
        self,
        *,
        store: OrderStore,
        gateway: PaymentGateway,
        now: Clock,
        retry_delay: Callable[[int], timedelta],
        listener: SettlementListener,
        refusals: RefusalWatch,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._now = now
        self._retry_delay = retry_delay
        self._listener = listener
        self._refusals = refusals
        self._max_attempts = max_attempts
        self._running: dict[tuple[UUID, int], asyncio.Task[Order]] = {}

    async def settle(self, order: Order, *, until: Deadline) -> Order:
        return await self._join(order, attempts=0, until=until)

    async def settle_leased(self, leased: LeasedOrder, *, until: Deadline) -> None:
        """Make one attempt of the background worker."""
        await self._join(leased.order, attempts=leased.attempts, until=until)

    async def _join(self, order: Order, *, attempts: int, until: Deadline) -> Order:
        key = (order.id, order.version)
        attempt = self._running.get(key)
        if attempt is None:
            attempt = asyncio.create_task(self._attempt(order, attempts, until))
            self._running[key] = attempt
            attempt.add_done_callback(partial(self._ended, key))
        await _ended_within(until.remaining_s(), attempt)
        # Cancelled: the process is going away, and the order's lease brings it back elsewhere.
        return attempt.result() if attempt.done() and not attempt.cancelled() else order

    def _ended(self, key: tuple[UUID, int], attempt: asyncio.Task[Order]) -> None:
        del self._running[key]
        if not attempt.cancelled():
            # Marks it as seen: with no caller left there is nobody to tell, and the order's
            # lease brings it back.
            attempt.exception()

    async def _attempt(self, order: Order, attempts: int, until: Deadline) -> Order:
        # The gateway keeps to this attempt's time. The writes keep to none: an outcome that is
        # known is worth saving however late it is.
        deadline.enter(None)
        while order.state.awaits_gateway:
            try:
                following = await self._following(order, attempts, until)
            except (PaymentUnresolved, PaymentRefused) as cause:
                await self._put_off(order, attempts, cause)
                return order
            except PaymentInvalid as cause:
                current = await self._store.get(order.id)
                if current.version == order.version:
                    await self._park(order, attempts, parking_reason(cause), cause)
                    return order
                order = current  # The answer was about a version that came after this one.
                continue
            try:
                await self._store.save(following)
            except VersionConflict:
                order = await self._store.get(order.id)
            else:
                self._listener(OrderSettled(following))
                return following
        return order

    async def _following(self, order: Order, attempts: int, until: Deadline) -> Order:
        """Return the next version of the order, as the gateway has it.

        Raises:
            PaymentUnresolved, PaymentRefused, PaymentInvalid: There is no outcome.
        """
        try:
            with deadline.within(until):
                payment = await self._ask_gateway(order, attempts, until)
            self._refusals.answered()
            return after_payment(order, payment, self._now())
        except (PaymentUnresolved, PaymentRefused) as cause:
            code = refusal_code(cause)
            if code is not None:
                self._refusals.refused(order.id, code)
            raise
        except PaymentInvalid:
            raise
        except Exception as error:
            # Not foreseen, so perhaps this order's only: it backs off like every other.
            raise PaymentUnresolved(order.id) from error

    async def _ask_gateway(self, order: Order, attempts: int, until: Deadline) -> Payment:
        if attempts == 0:
            return await self._move_money(order)
        # The worker has the time to wait for a slow answer, and longer the more it needs: an
        # answer that was lost never comes, and to wait for it at once would hold the order up.
        patience_s = min(_FIRST_PATIENCE_S * 2 ** min(attempts - 1, 16), until.remaining_s())
        with extended(max(patience_s, 0.0)):
            if order.state is OrderState.PENDING_PAYMENT:
                payment = await self._gateway.find(order)
                if payment is not None:
                    return payment
            return await self._move_money(order)

    async def _move_money(self, order: Order) -> Payment:
        if order.state is OrderState.REFUNDING:
            return await self._gateway.refund(order)
        return await self._gateway.charge(order)

    async def _put_off(
        self, order: Order, attempts: int, cause: PaymentUnresolved | PaymentRefused
    ) -> None:
        asked = was_asked(cause)
        if asked and attempts >= self._max_attempts:
            await self._park(order, attempts, ATTEMPTS_EXHAUSTED, cause)
            return
        if (
            isinstance(cause, PaymentRefused)
            and attempts >= ATTEMPTS_BEFORE_REFUSAL
            and self._refusals.blames_orders
        ):
            reason = f"{REFUSED}_{cause.code.name}: {cause.reason}".removesuffix(": ")
            await self._park(order, attempts, reason, cause)
            return
        delay = self._retry_delay(attempts)
        await self._store.defer(order.id, delay=delay)
        self._listener(SettlementDeferred(order.id, attempts, delay, cause, asked))

    async def _park(
        self,
        order: Order,
        attempts: int,
        reason: str,
        cause: PaymentUnresolved | PaymentRefused | PaymentInvalid,
    ) -> None:
        # Part of it may be the gateway's own text.
        printable = "".join(each if each.isprintable() else "?" for each in reason[:_MAX_REASON])
        await self._store.park(order.id, reason=printable)
        self._listener(SettlementParked(order.id, attempts, reason, cause))

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
