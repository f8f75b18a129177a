"""The relay: publishes what the outbox holds, in order per order, at least once."""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.retry import RetryPolicy
from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventPublisher,
    LeadChanged,
    PublishFailed,
    RelayListener,
)
from orderflow_server.orders.ports import LONGEST_LEASE, Outbox, OutboxEvent

LEASE = "outbox relay"

_GATHER_S = 0.02
"""How long events gather after a batch that was not full: batches cost, whatever their size."""

# Only its backoffs are used: attempts go on for ever.
_BACKOFF = RetryPolicy(
    max_attempts=2, initial_backoff_s=0.1, max_backoff_s=5.0, backoff_multiplier=2.0
)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """How the relay goes about it.

    Attributes:
        batch: The most events that are read, and under way, at a time. They are sent at one go,
            about 0.1 ms of the event loop's time each.
        poll_interval_s: How long to rest when there is nothing to publish and nobody wakes it.
        lease_s: How long after its leader died another relay takes over, at the most, and half
            as long again. Longer than one publication may take.

    Raises:
        ValueError: When one is out of its range.
    """

    batch: int = 100
    poll_interval_s: float = 0.5
    lease_s: float = 6.0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError("batch must be at least 1")
        if self.poll_interval_s <= 0:
            raise ValueError("poll_interval_s must be positive")
        if not 0 < self.lease_s <= LONGEST_LEASE.total_seconds():
            raise ValueError(f"lease_s must be positive and at most {LONGEST_LEASE}")


@dataclass(frozen=True, slots=True)
class _Rest:
    """To wait for the delay, or less when the event is set."""

    delay_s: float
    until: asyncio.Event


class OutboxRelay:
    """Publishes events while it holds the lease: of all relays over one database, one at a time.

    An event of an order is published when the one before it is acknowledged; those of different
    orders go side by side. They are marked after that, so that an event whose relay died in
    between is published again, under the same id.

    The lease saves work and duplicates, no more: should a relay that was stopped for longer than
    its lease go on beside its successor, each still publishes every order's events in order, and
    for who deduplicates them the first arrivals are in order, too.

    Args:
        holder: Tells this relay from every other.
        listener: Told what happens; must not fail.
        clock: Measures for how long the lease is still this relay's.
        sleep: Waits the given seconds.
        random: Uniform over [0, 1), for the jitter of backoffs.
    """

    def __init__(
        self,
        *,
        outbox: Outbox,
        publisher: EventPublisher,
        holder: str,
        options: RelayOptions,
        listener: RelayListener,
        clock: MonotonicClock = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._outbox = outbox
        self._publisher = publisher
        self._holder = holder
        self._options = options
        self._listener = listener
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._leads_until_s: float | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    def wake(self) -> None:
        """Ends the present rest: there may be something to publish."""
        self._woken.set()

    async def run(self) -> None:
        """Publishes until stopped or cancelled; no failure of the store or the publisher ends it.

        Cancelled, it leaves its lease to end by itself.
        """
        self._ended.clear()
        try:
            while not self._stopping.is_set():
                rest = await self._successful_turn()
                if rest is not None:
                    await self._rest(rest)
            await self._give_up_lead()
        except Exception as error:  # noqa: BLE001  only the last write: the lease ends by itself
            _log.warning("the relay could not give up its lease", exc_info=error)
        finally:
            self._ended.set()

    async def stop(self, *, timeout_s: float) -> None:
        """Finishes what it is publishing and lets another relay take over at once.

        Then `run` returns, unless that takes longer than `timeout_s`: cancel it after this.
        """
        self._stopping.set()
        self.wake()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            _log.warning("the relay was cut short; its events are published again")

    async def _successful_turn(self) -> _Rest | None:
        """One turn; while it fails it is taken again, ever less often, until stopped."""
        failures = 0
        backoffs_s = _BACKOFF.backoffs_s(self._random)
        while True:
            # Cleared before the outbox is asked: a wake from now on ends the rest that follows.
            self._woken.clear()
            try:
                rest = await self._turn()
            except Exception as error:  # noqa: BLE001  a loop that ended would publish no more
                if not failures:  # One line per streak: an outage must not flood the log.
                    _log.warning("events cannot be published", exc_info=error)
                failures += 1
                # Not ended by a wake: new events are no reason to try sooner.
                await self._rest(_Rest(next(backoffs_s), self._stopping))
                if self._stopping.is_set():
                    return None
            else:
                if failures:
                    _log.info("events are published again", failures=failures)
                return rest

    async def _turn(self) -> _Rest | None:
        """Publishes one batch, if this relay leads. Returns how to rest after it; None: not at all.

        Raises:
            PublishFailed: Not all could be published.
            Exception: What the outbox raises.
        """
        options = self._options
        leads_until_s = await self._lead()
        if leads_until_s is None:
            return _Rest(options.lease_s / 2, self._stopping)
        try:
            await self._publisher.prepare()
        except PublishFailed:
            # Another relay may have a way to where this one has none.
            await self._give_up_lead()
            raise
        events = await self._outbox.unpublished(limit=options.batch)
        if not events:
            return _Rest(options.poll_interval_s, self._woken)
        published, failure = await self._publish(events, until_s=leads_until_s)
        # Before the failure is told: what was published must not be again.
        if published:
            await self._outbox.mark_published(published)
        if failure is not None:
            raise PublishFailed(f"published {len(published)} of {len(events)}") from failure
        return None if len(events) == options.batch else _Rest(_GATHER_S, self._stopping)

    async def _lead(self) -> float | None:
        """Return until when this relay leads, for half a lease at least; None: it does not.

        Counted from before the store is asked, the lease never lasts longer here than there.
        """
        now_s, lease_s = self._clock(), self._options.lease_s
        if self._leads_until_s is None or self._leads_until_s - now_s < lease_s / 2:
            leads = await self._outbox.take_lease(
                LEASE, holder=self._holder, lease=timedelta(seconds=lease_s)
            )
            self._now_leads_until(now_s + lease_s if leads else None)
        return self._leads_until_s

    async def _give_up_lead(self) -> None:
        if self._leads_until_s is not None:
            await self._outbox.give_up_lease(LEASE, holder=self._holder)
            self._now_leads_until(None)

    def _now_leads_until(self, until_s: float | None) -> None:
        changed = (until_s is None) != (self._leads_until_s is None)
        self._leads_until_s = until_s
        if changed:
            self._listener(LeadChanged(until_s is not None))

    async def _publish(
        self, events: Sequence[OutboxEvent], *, until_s: float
    ) -> tuple[Sequence[int], Exception | None]:
        """Returns the sequences of what could be published in that time, and a failure if any."""
        published: list[int] = []
        failures: list[Exception] = []
        orders = [
            asyncio.create_task(self._publish_order(of_one, published, failures))
            for of_one in _by_order(events)
        ]
        try:
            _, late = await asyncio.wait(orders, timeout=max(until_s - self._clock(), 0.0))
        finally:
            for order in orders:
                order.cancel()
            await asyncio.wait(orders)
        if late:
            failures.append(TimeoutError("the lease ended before every event was acknowledged"))
        return published, failures[0] if failures else None

    async def _publish_order(
        self, events: Sequence[OutboxEvent], published: list[int], failures: list[Exception]
    ) -> None:
        """Publishes events of one order, each after the one before, up to the first failure."""
        for event in events:
            try:
                await self._publisher.publish(event)
            except Exception as error:  # noqa: BLE001  the other orders' events go on
                failures.append(error)
                self._listener(EventNotPublished(event, error))
                return
            published.append(event.sequence)
            self._listener(EventPublished(event))

    async def _rest(self, rest: _Rest) -> None:
        waits = [
            asyncio.ensure_future(self._sleep(rest.delay_s)),
            asyncio.ensure_future(rest.until.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def _by_order(events: Sequence[OutboxEvent]) -> Iterator[Sequence[OutboxEvent]]:
    """The events of each order, as they were: in the order of its versions."""
    orders: dict[UUID, list[OutboxEvent]] = {}
    for event in events:
        orders.setdefault(event.order.id, []).append(event)
    yield from orders.values()
