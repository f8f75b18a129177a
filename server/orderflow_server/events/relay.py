"""The relay: publishes what the outbox holds, in order per order, at least once."""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import structlog

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.ramp import RecoveryRamp
from orderflow_client.resilience.retry import RetryPolicy
from orderflow_server.events.ports import (
    EventNotPublished,
    EventPublished,
    EventPublisher,
    EventRefused,
    EventSetAside,
    LeadChanged,
    PublishFailed,
    RelayListener,
)
from orderflow_server.orders.ports import LONGEST_LEASE, Outbox, OutboxEvent

LEASE = "outbox relay"

_GATHER_S = 0.02
"""How long events gather after a batch that was not full: batches cost, whatever their size."""

_LEAST_PER_S = 100.0
"""First rate after an outage where fewer events a second were published before."""

_PROBE_BATCH = 10
"""Maximum number of events in a batch while NATS is considered away."""

_MAX_BACKING_OFF = 1000
"""Maximum number of orders that back off by themselves; they are kept in memory."""

_MAX_REASON = 500
"""Maximum length of a stored reason, characters."""

# Only its backoffs are used: attempts go on for ever.
_ORDER_BACKOFF = RetryPolicy(
    max_attempts=2, initial_backoff_s=0.5, max_backoff_s=30.0, backoff_multiplier=2.0
)
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
        patience_s: How long a turn waits for the acknowledgements of its batch. Orders that take
            longer continue alongside the next turns.

    Raises:
        ValueError: When one is out of its range.
    """

    batch: int = 100
    poll_interval_s: float = 0.5
    lease_s: float = 6.0
    patience_s: float = 0.2

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError("batch must be at least 1")
        if self.poll_interval_s <= 0:
            raise ValueError("poll_interval_s must be positive")
        if not 0 < self.lease_s <= LONGEST_LEASE.total_seconds():
            raise ValueError(f"lease_s must be positive and at most {LONGEST_LEASE}")
        if self.patience_s <= 0:
            raise ValueError("patience_s must be positive")


@dataclass(frozen=True, slots=True)
class _Rest:
    """To wait for the delay, or less when the event is set."""

    delay_s: float
    until: asyncio.Event


@dataclass(slots=True)
class _Outcome:
    """Result of publishing events of one order, which began in a turn with that number."""

    turn: int
    published: list[int] = field(default_factory=list)
    refusal: tuple[OutboxEvent, EventRefused] | None = None
    failure: Exception | None = None


@dataclass(slots=True)
class _BackingOff:
    """An order whose event failed: not tried before `until_s`."""

    delays_s: Iterator[float]
    until_s: float


class OutboxRelay:
    """Publishes events while it holds the lease: of all relays over one database, one at a time.

    An event of an order is published when the one before it is acknowledged; those of different
    orders go side by side. They are marked after that, so that an event whose relay died in
    between is published again, under the same id.

    A refused event is set aside, and one that fails or hangs while others succeed backs off: either
    holds up later events of its own order only. NATS is considered away when none of a batch
    succeeds; then all wait, ever longer. After that the rate of events grows from what it was
    before, see `RecoveryRamp`.

    The lease saves work and duplicates, no more: should a relay that was stopped for longer than
    its lease go on beside its successor, each still publishes every order's events in order, and
    for who deduplicates them the first arrivals are in order, too.

    Args:
        holder: Tells this relay from every other.
        listener: Told what happens; must not fail.
        clock: Measures for how long the lease is still this relay's, and backoffs.
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
        self._in_progress: dict[UUID, asyncio.Task[_Outcome]] = {}
        self._backing_off: dict[UUID, _BackingOff] = {}
        self._ramp = RecoveryRamp(least_per_s=_LEAST_PER_S, clock=clock)
        self._failures = 0  # Failed turns since events were last published.
        self._turns = 0
        self._published_in = 0  # The turn in which events were last published.
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
            if self._in_progress:
                await asyncio.wait(self._in_progress.values())
                with suppress(PublishFailed):
                    await self._collect()
            await self._give_up_lead()
        except Exception as error:  # noqa: BLE001  only the last write: the lease ends by itself
            _log.warning("the relay could not give up its lease", exc_info=error)
        finally:
            try:
                await self._abandon()
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
        backoffs_s = _BACKOFF.backoffs_s(self._random)
        while True:
            # Cleared before the outbox is asked: a wake from now on ends the rest that follows.
            self._woken.clear()
            try:
                return await self._turn()
            except Exception as error:  # noqa: BLE001  a loop that ended would publish no more
                if not self._failures:  # One line per streak: an outage must not flood the log.
                    _log.warning("events cannot be published", exc_info=error)
                    self._ramp.interrupted()
                self._failures += 1
                # Not ended by a wake: new events are no reason to try sooner.
                await self._rest(_Rest(next(backoffs_s), self._stopping))
                if self._stopping.is_set():
                    return None

    def _recovered(self) -> None:
        if self._failures:
            _log.info("events are published again", failures=self._failures)
            self._failures = 0
            self._ramp.resumed()

    async def _turn(self) -> _Rest | None:
        """Publishes one batch, if this relay leads. Returns how to rest after it; None: not at all.

        Raises:
            PublishFailed: None could be published.
            Exception: What the outbox raises.
        """
        self._turns += 1
        options = self._options
        leads_until_s = await self._lead()
        if leads_until_s is None:
            await self._abandon()
            self._recovered()
            return _Rest(options.lease_s / 2, self._stopping)
        try:
            await self._publisher.prepare()
        except PublishFailed:
            # Another relay may have a way to where this one has none.
            await self._give_up_lead()
            raise
        limit = min(_PROBE_BATCH, options.batch) if self._failures else options.batch
        free = max(0, limit - len(self._in_progress))
        room = self._ramp.take(free)
        if room < min(free, 1):
            await self._collect()
            return _Rest(self._ramp.rest_s, self._stopping)
        events = await self._read(room) if room else []
        self._ramp.started(len(events))
        if len(events) < room:
            self._ramp.ends()
        left_s = max(leads_until_s - self._clock(), 0.0)
        started = [self._start(of_one, timeout_s=left_s) for of_one in _by_order(events)]
        if started:
            _, slow = await asyncio.wait(started, timeout=options.patience_s)
            for task in slow:
                task.add_done_callback(lambda _: self.wake())
        elif not self._backing_off and not self._in_progress:
            self._recovered()
        await self._collect()
        if not events:
            return _Rest(options.poll_interval_s, self._woken)
        return None if len(events) == room else _Rest(_GATHER_S, self._stopping)

    async def _read(self, limit: int) -> Sequence[OutboxEvent]:
        """Read the oldest events of orders that are neither in progress nor back off."""
        now_s = self._clock()
        without = {each for each, waits in self._backing_off.items() if waits.until_s > now_s}
        without.update(self._in_progress)
        if self._failures:
            # Whether NATS is back, an order that has not failed yet shows best.
            fresh = without.union(self._backing_off)
            if events := await self._outbox.unpublished(limit=limit, without=fresh):
                return events
        return await self._outbox.unpublished(limit=limit, without=without)

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
        await self._abandon()
        if self._leads_until_s is not None:
            await self._outbox.give_up_lease(LEASE, holder=self._holder)
            self._now_leads_until(None)

    def _now_leads_until(self, until_s: float | None) -> None:
        changed = (until_s is None) != (self._leads_until_s is None)
        self._leads_until_s = until_s
        if changed:
            self._listener(LeadChanged(until_s is not None))

    def _start(self, events: Sequence[OutboxEvent], *, timeout_s: float) -> asyncio.Task[_Outcome]:
        """Start to publish events of one order."""
        task = asyncio.create_task(self._publish(events, timeout_s=timeout_s))
        self._in_progress[events[0].order.id] = task
        return task

    async def _publish(self, events: Sequence[OutboxEvent], *, timeout_s: float) -> _Outcome:
        """Publish events of one order, each after the one before, up to the first failure."""
        outcome = _Outcome(self._turns)
        event = events[0]
        try:
            async with asyncio.timeout(timeout_s):
                for event in events:
                    await self._publisher.publish(event)
                    outcome.published.append(event.sequence)
                    self._listener(EventPublished(event))
        except EventRefused as error:
            outcome.refusal = event, error
        except Exception as error:  # noqa: BLE001  the other orders' events go on
            outcome.failure = error
            self._listener(EventNotPublished(event, error))
        return outcome

    async def _collect(self) -> None:
        """Write down what became of the orders whose publication has ended.

        Raises:
            PublishFailed: None was published, and some failed.
            Exception: What the outbox raises; then the events are published again.
        """
        ended = {each: task for each, task in self._in_progress.items() if task.done()}
        outcomes = {order_id: task.result() for order_id, task in ended.items()}
        for order_id in ended:
            del self._in_progress[order_id]
        published = [sequence for each in outcomes.values() for sequence in each.published]
        refusals = [each.refusal for each in outcomes.values() if each.refusal is not None]
        failed = [each for each in outcomes.values() if each.failure is not None]
        began = 0
        for order_id, outcome in outcomes.items():
            began += self._back_off(order_id, failed=outcome.failure is not None)
        if published:
            await self._outbox.mark_published(published)
        if refusals:
            await self._set_aside(refusals)
        self._ramp.answered(len(published))
        if published:
            self._published_in = self._turns
            self._recovered()
        elif (
            failed
            and not self._in_progress
            and all(each.turn > self._published_in for each in failed)
        ):
            raise PublishFailed(f"no event of {len(failed)} orders was published") from (
                failed[0].failure
            )
        if began and not self._failures:
            _log.warning(
                "events not published, later events of their orders wait",
                orders=began,
                exc_info=failed[0].failure,
            )

    def _back_off(self, order_id: UUID, *, failed: bool) -> bool:
        """Note the end of an order's publication. Returns whether it begins to back off."""
        waits = self._backing_off.pop(order_id, None)
        if not failed:
            return False
        delays_s = _ORDER_BACKOFF.backoffs_s(self._random) if waits is None else waits.delays_s
        until_s = self._clock() + next(delays_s)
        if len(self._backing_off) >= _MAX_BACKING_OFF:
            del self._backing_off[next(iter(self._backing_off))]
        self._backing_off[order_id] = _BackingOff(delays_s, until_s)
        return waits is None

    async def _set_aside(self, refusals: Sequence[tuple[OutboxEvent, EventRefused]]) -> None:
        reasons = {event.sequence: _reason(error) for event, error in refusals}
        await self._outbox.refuse(reasons)
        for event, error in refusals:
            # Not its cause: the text of an encoder's error may hold data of the customer.
            _log.error(
                "event refused, set aside until an operator retries or skips it",
                order_id=str(event.order.id),
                version=event.order.version,
                sequence=event.sequence,
                reason=reasons[event.sequence],
            )
            self._listener(EventSetAside(event, error))

    async def _abandon(self) -> None:
        """Cancel publications in progress and wait until they have ended."""
        tasks = list(self._in_progress.values())
        self._in_progress.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

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


def _reason(error: EventRefused) -> str:
    """Return the reason, without characters that a database may not store."""
    text = str(error)[:_MAX_REASON]
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
