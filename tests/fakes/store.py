"""An `OrderStore` and `Outbox` in memory, simple enough to be right by reading it.

The same contract suite runs over it and over the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from orderflow_server.orders.errors import OrderNotFound, RequestIdReused, VersionConflict
from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.ports import Backlog, LeasedOrder, OutboxEvent, Waiting


class FakeOrderStore:
    def __init__(self) -> None:
        self._orders: dict[UUID, Order] = {}
        self._by_request: dict[UUID, UUID] = {}
        self._changes: dict[UUID, list[OrderChange]] = {}
        self._leases: dict[UUID, datetime] = {}
        self._attempts: dict[UUID, int] = {}
        self._parked: dict[UUID, datetime] = {}
        self._events: list[Order] = []  # The order after each change; the first has sequence 1.
        self._published: set[int] = set()
        self._named_leases: dict[str, tuple[str, datetime]] = {}

    async def place(self, order: Order, *, lease_until: datetime) -> Order:
        if order.request_id in self._by_request:
            stored = self._orders[self._by_request[order.request_id]]
            if stored.content_hash != order.content_hash:
                raise RequestIdReused(order.request_id)
            return stored
        self._by_request[order.request_id] = order.id
        self._write(order, lease_until)
        return order

    async def save(self, order: Order, *, lease_until: datetime | None = None) -> None:
        if order.state.awaits_gateway != (lease_until is not None):
            raise ValueError("lease_until is for orders that await the gateway, and only for those")
        stored = await self.get(order.id)
        if order.version != stored.version + 1:
            raise VersionConflict(order.id, order.version)
        self._write(order, lease_until)

    async def defer(self, order_id: UUID, *, until: datetime) -> None:
        if order_id in self._leases:
            self._leases[order_id] = until

    async def lease_due(
        self, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedOrder]:
        due = sorted((until, order_id) for order_id, until in self._leases.items() if until <= now)
        taken = [order_id for _, order_id in due[:limit]]
        for order_id in taken:
            self._leases[order_id] = lease_until
            self._attempts[order_id] += 1
        return tuple(
            LeasedOrder(self._orders[order_id], self._attempts[order_id]) for order_id in taken
        )

    async def park(self, order_id: UUID, *, now: datetime) -> None:
        if order_id in self._leases:
            del self._leases[order_id]
            self._parked[order_id] = now

    async def release(self, order_id: UUID, *, now: datetime) -> bool:
        if order_id not in self._parked:
            return False
        del self._parked[order_id]
        self._leases[order_id] = now
        self._attempts[order_id] = 0
        return True

    async def parked(self, *, limit: int) -> Sequence[Order]:
        longest = sorted((since, order_id) for order_id, since in self._parked.items())
        return [self._orders[order_id] for _, order_id in longest[:limit]]

    async def get(self, order_id: UUID) -> Order:
        if order_id not in self._orders:
            raise OrderNotFound(order_id)
        return self._orders[order_id]

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        matching = [order for order in self._orders.values() if _matches(query, order)]
        matching.sort(key=lambda order: order.id, reverse=True)
        return matching[: query.limit]

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        changes = self._changes.get(order_id, [])
        return [change for change in changes if change.version > after_version]

    async def backlog(self, *, events: bool = False) -> Backlog:
        waiting: dict[OrderState, list[datetime]] = {}
        for order_id in self._leases:
            order = self._orders[order_id]
            waiting.setdefault(order.state, []).append(order.update_time)
        unpublished = await self.unpublished(limit=len(self._events)) if events else []
        return Backlog(
            orders={state: Waiting(len(times), min(times)) for state, times in waiting.items()},
            events=Waiting(
                len(unpublished), unpublished[0].order.update_time if unpublished else None
            ),
            parked=len(self._parked),
        )

    async def take_lease(self, name: str, *, holder: str, now: datetime, until: datetime) -> bool:
        its_holder, its_end = self._named_leases.get(name, (holder, now))
        if its_holder != holder and its_end > now:
            return False
        self._named_leases[name] = (holder, until)
        return True

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        if name in self._named_leases and self._named_leases[name][0] == holder:
            del self._named_leases[name]

    async def unpublished(self, *, limit: int) -> Sequence[OutboxEvent]:
        waiting = [
            OutboxEvent(sequence, order)
            for sequence, order in enumerate(self._events, start=1)
            if sequence not in self._published
        ]
        return waiting[:limit]

    async def mark_published(self, sequences: Sequence[int]) -> None:
        self._published.update(n for n in sequences if 0 < n <= len(self._events))

    async def ping(self) -> None:
        pass

    def _write(self, order: Order, lease_until: datetime | None) -> None:
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
        if lease_until is None:
            self._leases.pop(order.id, None)
        else:
            self._leases[order.id] = lease_until


def _matches(query: OrderQuery, order: Order) -> bool:
    return (
        (query.before is None or order.id < query.before)
        and (query.customer_id is None or order.customer_id == query.customer_id)
        and (not query.states or order.state in query.states)
        and (query.created_after is None or order.create_time >= query.created_after)
        and (query.created_before is None or order.create_time < query.created_before)
    )
