"""The store behind its breaker: while the database is down, nobody waits to find out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from orderflow_client.resilience.breaker import Breaker, Outcome
from orderflow_server.orders.errors import (
    DeadlineExpired,
    OrderError,
    StoreOverloaded,
    StoreUnavailable,
)
from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import LeasedOrder, OrderStore


def store_outcome(error: Exception) -> Outcome:
    """What a failed call says about the database.

    A refusal such as VersionConflict is an answer. That too much waits, or waited too long, is
    this process's own doing.
    """
    if isinstance(error, StoreUnavailable):
        return Outcome.FAILURE
    if isinstance(error, StoreOverloaded | DeadlineExpired):
        return Outcome.IGNORED
    return Outcome.SUCCESS if isinstance(error, OrderError) else Outcome.FAILURE


class GuardedOrderStore:
    """Implements `OrderStore` over another one, each call of which passes the breaker.

    What every method may raise besides: BreakerOpen; the store was not asked.
    """

    def __init__(self, store: OrderStore, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker

    async def place(self, order: Order, *, lease_until: datetime) -> Order:
        return await self._breaker.run(lambda: self._store.place(order, lease_until=lease_until))

    async def save(self, order: Order, *, lease_until: datetime | None = None) -> None:
        await self._breaker.run(lambda: self._store.save(order, lease_until=lease_until))

    async def defer(self, order_id: UUID, *, until: datetime) -> None:
        await self._breaker.run(lambda: self._store.defer(order_id, until=until))

    async def lease_due(
        self, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedOrder]:
        return await self._breaker.run(
            lambda: self._store.lease_due(now=now, lease_until=lease_until, limit=limit)
        )

    async def get(self, order_id: UUID) -> Order:
        return await self._breaker.run(lambda: self._store.get(order_id))

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        return await self._breaker.run(lambda: self._store.list(query))

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        return await self._breaker.run(
            lambda: self._store.changes(order_id, after_version=after_version)
        )

    async def ping(self) -> None:
        await self._breaker.run(self._store.ping)
