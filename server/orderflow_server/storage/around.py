"""A store with something around each of its calls: a breaker, a span."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar
from uuid import UUID

from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import Backlog, LeasedOrder, OrderStore, ParkedOrder

T = TypeVar("T")


class Around(Protocol):
    """Runs one call to the store; `name` is the method's."""

    async def __call__(self, name: str, call: Callable[[], Awaitable[T]], /) -> T: ...


class AroundOrderStore:
    """Implements `OrderStore` over another one, each call of which is run by `around`.

    Every method may also raise what `around` does.
    """

    def __init__(self, store: OrderStore, around: Around) -> None:
        self._store = store
        self._around = around

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        return await self._around("place", lambda: self._store.place(order, lease=lease))

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        await self._around("save", lambda: self._store.save(order, lease=lease))

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        await self._around("defer", lambda: self._store.defer(order_id, delay=delay))

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        return await self._around(
            "lease_due",
            lambda: self._store.lease_due(lease=lease, limit=limit, repeated=repeated),
        )

    async def park(self, order_id: UUID, *, reason: str) -> None:
        await self._around("park", lambda: self._store.park(order_id, reason=reason))

    async def release(self, order_id: UUID) -> bool:
        return await self._around("release", lambda: self._store.release(order_id))

    async def parked(self, *, limit: int, reason: str = "") -> Sequence[ParkedOrder]:
        return await self._around("parked", lambda: self._store.parked(limit=limit, reason=reason))

    async def get(self, order_id: UUID) -> Order:
        return await self._around("get", lambda: self._store.get(order_id))

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        return await self._around("list", lambda: self._store.list(query))

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        return await self._around(
            "changes", lambda: self._store.changes(order_id, after_version=after_version)
        )

    async def backlog(self, *, events: bool = False) -> Backlog:
        return await self._around("backlog", lambda: self._store.backlog(events=events))

    async def ping(self) -> None:
        await self._around("ping", self._store.ping)

    async def probe(self) -> None:
        await self._around("probe", self._store.probe)
