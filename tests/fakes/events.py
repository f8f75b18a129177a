"""What the relay stands between: an outbox to write to, and a publisher that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.steps import Pass, _Stepped
from fakes.store import FakeOrderStore
from orderflow_server.events.ports import EventPublisher, event_id
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import Outbox, OutboxEvent, RefusedEvent


class FakePublisher:
    """Implements `EventPublisher`.

    Attributes:
        arrived: The orders at the versions that were published, as often as they were.
        under_way: How many are being published now.
        unready: Raised by `prepare`, one per call, before it succeeds.
        failing: Ids of events that cannot be published.
        open: While it is not set, `publish` waits.
        hanging: Ids of events that wait for their own event.
        attempts: How many publications began.
        most_under_way: Highest number under way at a time.
    """

    def __init__(self) -> None:
        self.arrived: list[Order] = []
        self.under_way = 0
        self.unready: list[Exception] = []
        self.failing: dict[str, Exception] = {}
        self.open = asyncio.Event()
        self.open.set()
        self.hanging: dict[str, asyncio.Event] = {}
        self.attempts = 0
        self.most_under_way = 0

    async def prepare(self) -> None:
        if self.unready:
            raise self.unready.pop(0)

    async def publish(self, event: OutboxEvent) -> None:
        self.attempts += 1
        self.under_way += 1
        try:
            self.most_under_way = max(self.most_under_way, self.under_way)
            await self.open.wait()
            if event_id(event.order) in self.hanging:
                await self.hanging[event_id(event.order)].wait()
        finally:
            self.under_way -= 1
        if event_id(event.order) in self.failing:
            raise self.failing[event_id(event.order)]
        self.arrived.append(event.order)

    @property
    def ids(self) -> list[str]:
        return [event_id(order) for order in self.arrived]


class SteppedOutbox(_Stepped):
    """Implements `Outbox` over another one."""

    def __init__(self, outbox: Outbox, pass_: Pass) -> None:
        super().__init__("outbox", pass_)
        self._outbox = outbox

    async def take_lease(self, name: str, *, holder: str, lease: timedelta) -> bool:
        return await self._step(
            "take_lease",
            None,
            lambda: self._outbox.take_lease(name, holder=holder, lease=lease),
        )

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        await self._step(
            "give_up_lease", None, lambda: self._outbox.give_up_lease(name, holder=holder)
        )

    async def unpublished(
        self, *, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        return await self._step(
            "unpublished", None, lambda: self._outbox.unpublished(limit=limit, without=without)
        )

    async def mark_published(self, sequences: Sequence[int]) -> None:
        await self._step("mark_published", None, lambda: self._outbox.mark_published(sequences))

    async def refuse(self, reasons: Mapping[int, str]) -> None:
        await self._step("refuse", None, lambda: self._outbox.refuse(reasons))

    async def refused(self, *, limit: int) -> Sequence[RefusedEvent]:
        return await self._step("refused", None, lambda: self._outbox.refused(limit=limit))

    async def retry_refused(self, sequences: Sequence[int] | None = None) -> Sequence[int]:
        return await self._step(
            "retry_refused", None, lambda: self._outbox.retry_refused(sequences)
        )

    async def skip_refused(self, sequences: Sequence[int]) -> Sequence[int]:
        return await self._step("skip_refused", None, lambda: self._outbox.skip_refused(sequences))


class SteppedPublisher(_Stepped):
    """Implements `EventPublisher` over another one."""

    def __init__(self, publisher: EventPublisher, pass_: Pass) -> None:
        super().__init__("publisher", pass_)
        self._publisher = publisher

    async def prepare(self) -> None:
        await self._step("prepare", None, self._publisher.prepare)

    async def publish(self, event: OutboxEvent) -> None:
        await self._step("publish", event.order.id, lambda: self._publisher.publish(event))


async def write(store: FakeOrderStore, number: int, *, versions: int = 2) -> Order:
    """Writes an order and up to three changes of it: paid, refunding, cancelled."""
    order = new_order(number)
    await store.place(order, lease=LEASE_FOR)
    for change in (Order.paid, Order.refunding, Order.cancelled)[: versions - 1]:
        order = change(order, NOW + timedelta(seconds=order.version))
        await store.save(order, lease=LEASE_FOR if order.state.awaits_gateway else None)
    return order


def first_arrivals(orders: Sequence[Order]) -> list[str]:
    """The ids of events as a consumer sees them that drops what it has seen."""
    return list(dict.fromkeys(event_id(order) for order in orders))


def assert_each_once_and_in_order(seen: Sequence[str], expected: Sequence[Order]) -> None:
    """Every version of the orders is there once, those of one order in order."""
    versions: dict[str, list[int]] = {}
    for identity in seen:
        order_id, version = identity.split("/")
        versions.setdefault(order_id, []).append(int(version))
    assert versions == {str(order.id): list(range(1, order.version + 1)) for order in expected}
