"""An `OrderStore` and `Outbox` in memory, simple enough to be right by reading it.

The same contract suite runs over it and over the real ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from fakes.clock import FakeClock
from orderflow_server.orders.errors import (
    InvalidValue,
    OrderNotFound,
    RequestIdReused,
    VersionConflict,
)
from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.ports import (
    LONGEST_LEASE,
    REPEATED_ATTEMPTS,
    Backlog,
    Clock,
    LeasedOrder,
    OutboxEvent,
    ParkedOrder,
    RefusedEvent,
    Waiting,
)


class FakeOrderStore:
    def __init__(self, now: Clock | None = None) -> None:
        self._now = now or FakeClock()
        self._orders: dict[UUID, Order] = {}
        self._by_request: dict[UUID, UUID] = {}
        self._changes: dict[UUID, list[OrderChange]] = {}
        self._leases: dict[UUID, datetime] = {}
        self._attempts: dict[UUID, int] = {}
        self._awaiting_since: dict[UUID, datetime] = {}
        self._parked: dict[UUID, tuple[datetime, str]] = {}
        self._events: list[Order] = []  # The order after each change; the first has sequence 1.
        self._published: set[int] = set()
        self._refused: dict[int, tuple[datetime, str]] = {}
        self._named_leases: dict[str, tuple[str, datetime]] = {}

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        _check(lease)
        _check_values(
            order.customer_id,
            order.payment_token,
            order.version,
            *(item.sku for item in order.items),
        )
        if order.request_id in self._by_request:
            stored = self._orders[self._by_request[order.request_id]]
            if stored.content_hash != order.content_hash:
                raise RequestIdReused(order.request_id)
            return stored
        self._by_request[order.request_id] = order.id
        self._write(order, lease)
        return order

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        if order.state.awaits_gateway != (lease is not None):
            raise ValueError("a lease is for orders that await the gateway, and only for those")
        if lease is not None:
            _check(lease)
        stored = await self.get(order.id)
        if order.version != stored.version + 1:
            raise VersionConflict(order.id, order.version)
        self._write(order, lease)

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        _check(delay)
        if order_id in self._leases:
            self._leases[order_id] = self._now() + delay

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        _check(lease)
        due = sorted(
            (until, order_id) for order_id, until in self._leases.items() if self._has_ended(until)
        )
        fresh = [each for _, each in due if self._attempts[each] < REPEATED_ATTEMPTS]
        others = [each for _, each in due if self._attempts[each] >= REPEATED_ATTEMPTS]
        taken = [*fresh, *others[:repeated]][:limit]
        for order_id in taken:
            self._leases[order_id] = self._now() + lease
            self._attempts[order_id] += 1
        return tuple(
            LeasedOrder(self._orders[order_id], self._attempts[order_id]) for order_id in taken
        )

    async def park(self, order_id: UUID, *, reason: str) -> None:
        if order_id in self._leases:
            del self._leases[order_id]
            self._parked[order_id] = (self._now(), reason)

    async def release(self, order_id: UUID) -> bool:
        if order_id not in self._parked:
            return False
        del self._parked[order_id]
        self._leases[order_id] = self._now()
        self._attempts[order_id] = 0
        return True

    async def parked(self, *, limit: int, reason: str = "") -> Sequence[ParkedOrder]:
        longest = sorted(
            (since, order_id, why)
            for order_id, (since, why) in self._parked.items()
            if why.startswith(reason)
        )
        return [
            ParkedOrder(self._orders[order_id], self._age(since), why, self._attempts[order_id])
            for since, order_id, why in longest[:limit]
        ]

    async def get(self, order_id: UUID) -> Order:
        if order_id not in self._orders:
            raise OrderNotFound(order_id)
        return self._orders[order_id]

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        _check_values(query.customer_id or "", query.limit)
        matching = [order for order in self._orders.values() if _matches(query, order)]
        matching.sort(key=lambda order: order.id, reverse=True)
        return matching[: query.limit]

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        _check_values(after_version)
        changes = self._changes.get(order_id, [])
        return [change for change in changes if change.version > after_version]

    async def backlog(self, *, events: bool = False) -> Backlog:
        waiting: dict[OrderState, list[timedelta]] = {}
        for order_id in self._leases:
            age = self._age(self._awaiting_since[order_id])
            waiting.setdefault(self._orders[order_id].state, []).append(age)
        unpublished = await self.unpublished(limit=len(self._events)) if events else []
        return Backlog(
            orders={state: Waiting(len(ages), max(ages)) for state, ages in waiting.items()},
            events=Waiting(
                len(unpublished),
                self._age(unpublished[0].order.update_time) if unpublished else None,
            ),
            parked=len(self._parked),
            refused=len(await self.refused(limit=len(self._events))) if events else 0,
        )

    async def take_lease(self, name: str, *, holder: str, lease: timedelta) -> bool:
        _check(lease)
        its_holder, its_end = self._named_leases.get(name, (holder, self._now()))
        if its_holder != holder and not self._has_ended(its_end):
            return False
        self._named_leases[name] = (holder, self._now() + lease)
        return True

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        if name in self._named_leases and self._named_leases[name][0] == holder:
            del self._named_leases[name]

    async def unpublished(
        self, *, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        refusals = await self.refused(limit=len(self._events))
        waiting = [
            OutboxEvent(sequence, order)
            for sequence, order in enumerate(self._events, start=1)
            if sequence not in self._published
            and not any(
                refused.order_id == order.id and refused.version <= order.version
                for refused in refusals
            )
            and order.id not in without
        ]
        return waiting[:limit]

    async def mark_published(self, sequences: Sequence[int]) -> None:
        self._published.update(n for n in sequences if 0 < n <= len(self._events))

    async def refuse(self, reasons: Mapping[int, str]) -> None:
        for sequence, reason in reasons.items():
            if 0 < sequence <= len(self._events) and sequence not in self._published:
                self._refused.setdefault(sequence, (self._now(), reason))

    async def refused(self, *, limit: int) -> Sequence[RefusedEvent]:
        return [
            self._refused_event(sequence)
            for sequence in sorted(self._refused.keys() - self._published)[:limit]
        ]

    def _refused_event(self, sequence: int) -> RefusedEvent:
        order = self._events[sequence - 1]
        since, reason = self._refused[sequence]
        return RefusedEvent(
            sequence=sequence,
            order_id=order.id,
            version=order.version,
            state=order.state,
            reason=reason,
            age=self._age(since),
        )

    async def retry_refused(self, sequences: Sequence[int] | None = None) -> Sequence[int]:
        now = self._refused.keys() - self._published
        retried = now if sequences is None else now & set(sequences)
        for sequence in retried:
            del self._refused[sequence]
        return tuple(sorted(retried))

    async def skip_refused(self, sequences: Sequence[int]) -> Sequence[int]:
        skipped = (self._refused.keys() - self._published) & set(sequences)
        self._published |= skipped
        return tuple(sorted(skipped))

    async def ping(self) -> None:
        pass

    async def probe(self) -> None:
        pass

    def _has_ended(self, until: datetime) -> bool:
        return until <= self._now() or until > self._now() + LONGEST_LEASE

    def _age(self, since: datetime) -> timedelta:
        return max(self._now() - since, timedelta(0))

    def _write(self, order: Order, lease: timedelta | None) -> None:
        self._orders[order.id] = order
        self._changes.setdefault(order.id, []).append(
            OrderChange(
                order_id=order.id,
                version=order.version,
                state=order.state,
                decline_reason=order.decline_reason,
                time=order.update_time,
            )
        )
        self._events.append(order)
        self._attempts[order.id] = 0
        self._parked.pop(order.id, None)
        if lease is None:
            self._leases.pop(order.id, None)
        else:
            self._leases[order.id] = self._now() + lease
            self._awaiting_since[order.id] = self._now()


def _check(duration: timedelta) -> None:
    if not timedelta(0) <= duration <= LONGEST_LEASE:
        raise ValueError("out of range")


def _check_values(*values: str | int) -> None:
    for value in values:
        if isinstance(value, int):
            valid = -(2**63) <= value < 2**63
        else:
            valid = "\0" not in value and value == value.encode(errors="replace").decode()
        if not valid:
            raise InvalidValue(repr(value))


def _matches(query: OrderQuery, order: Order) -> bool:
    return (
        (query.before is None or order.id < query.before)
        and (query.customer_id is None or order.customer_id == query.customer_id)
        and (not query.states or order.state in query.states)
        and (query.created_after is None or order.create_time >= query.created_after)
        and (query.created_before is None or order.create_time < query.created_before)
    )
