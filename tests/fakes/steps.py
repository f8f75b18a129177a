"""A store and a gateway whose every call can be stopped, failed or watched, before and after.

A call passes two points: before anything is done, and when it is done but the caller does not
know yet. What raises or waits at a point is the test's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import (
    Backlog,
    LeasedOrder,
    OrderStore,
    ParkedOrder,
    Payment,
    PaymentGateway,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    """A point that a call passes.

    Attributes:
        of: "store" or "gateway".
        method: The port's method.
        done: Whether it has been done.
    """

    of: str
    method: str
    order_id: UUID | None
    done: bool


Pass = Callable[[Point], Awaitable[None]]


class _Stepped:
    def __init__(self, of: str, pass_: Pass) -> None:
        self._of = of
        self._pass = pass_

    async def _step(self, method: str, order_id: UUID | None, do: Callable[[], Awaitable[T]]) -> T:
        await self._pass(Point(self._of, method, order_id, done=False))
        result = await do()
        await self._pass(Point(self._of, method, order_id, done=True))
        return result


class SteppedStore(_Stepped):
    """Implements `OrderStore` over another one."""

    def __init__(self, store: OrderStore, pass_: Pass) -> None:
        super().__init__("store", pass_)
        self._store = store

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        return await self._step("place", order.id, lambda: self._store.place(order, lease=lease))

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        await self._step("save", order.id, lambda: self._store.save(order, lease=lease))

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        await self._step("defer", order_id, lambda: self._store.defer(order_id, delay=delay))

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        return await self._step(
            "lease_due",
            None,
            lambda: self._store.lease_due(lease=lease, limit=limit, repeated=repeated),
        )

    async def park(self, order_id: UUID, *, reason: str) -> None:
        await self._step("park", order_id, lambda: self._store.park(order_id, reason=reason))

    async def release(self, order_id: UUID) -> bool:
        return await self._step("release", order_id, lambda: self._store.release(order_id))

    async def parked(self, *, limit: int, reason: str = "") -> Sequence[ParkedOrder]:
        return await self._step(
            "parked", None, lambda: self._store.parked(limit=limit, reason=reason)
        )

    async def get(self, order_id: UUID) -> Order:
        return await self._step("get", order_id, lambda: self._store.get(order_id))

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        return await self._step("list", None, lambda: self._store.list(query))

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        return await self._step(
            "changes",
            order_id,
            lambda: self._store.changes(order_id, after_version=after_version),
        )

    async def backlog(self, *, events: bool = False) -> Backlog:
        return await self._step("backlog", None, lambda: self._store.backlog(events=events))

    async def ping(self) -> None:
        await self._step("ping", None, self._store.ping)

    async def probe(self) -> None:
        await self._step("probe", None, self._store.probe)


class SteppedGateway(_Stepped):
    """Implements `PaymentGateway` over another one."""

    def __init__(self, gateway: PaymentGateway, pass_: Pass) -> None:
        super().__init__("gateway", pass_)
        self._gateway = gateway

    async def find(self, order: Order) -> Payment | None:
        return await self._step("find", order.id, lambda: self._gateway.find(order))

    async def charge(self, order: Order) -> Payment:
        return await self._step("charge", order.id, lambda: self._gateway.charge(order))

    async def refund(self, order: Order) -> Payment:
        return await self._step("refund", order.id, lambda: self._gateway.refund(order))

    async def void(self, order: Order) -> Payment:
        return await self._step("void", order.id, lambda: self._gateway.void(order))
