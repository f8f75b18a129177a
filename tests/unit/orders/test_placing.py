"""Placing: durable first, paid second, once per request id."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from fakes.clock import FakeClock
from fakes.gateway import Trouble
from fakes.orders import ITEMS, NOW, order_id
from fakes.process import LEASE, LONG_S, Fail, Hold, Process, World, draft
from fakes.store import FakeOrderStore
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import (
    DeadlineExpired,
    InvalidOrder,
    OrderError,
    RequestIdReused,
    StoreOverloaded,
    StoreUnavailable,
)
from orderflow_server.orders.order import Order, OrderDraft, OrderQuery, OrderState
from orderflow_server.orders.placing import PlaceOrder

UNTIL = Deadline.after(7.0)


class PayingSettler:
    """Implements `Settler`: pays at once, and notes what the store held when it was asked.

    Attributes:
        found: The stored order, per call.
        deadlines: What it was given, per call.
    """

    def __init__(self, store: FakeOrderStore) -> None:
        self._store = store
        self.found: list[Order] = []
        self.deadlines: list[Deadline] = []

    async def settle(self, order: Order, *, until: Deadline) -> Order:
        self.found.append(await self._store.get(order.id))
        self.deadlines.append(until)
        paid = order.paid(NOW)
        await self._store.save(paid)
        return paid


class Placing:
    """The use case over fakes, with ids that show the time they were made for."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FakeOrderStore()
        self.settler = PayingSettler(self.store)
        self.place_order = PlaceOrder(
            store=self.store,
            settler=self.settler,
            now=self.clock,
            new_order_id=self._new_order_id,
            lease=LEASE,
        )
        self.ids_made = 0

    def _new_order_id(self, now: datetime) -> UUID:
        self.ids_made += 1
        return order_id(self.ids_made, now)

    async def __call__(self, draft: OrderDraft) -> Order:
        return await self.place_order(draft, until=UNTIL)


async def test_the_order_is_in_the_store_before_anybody_is_asked_to_pay() -> None:
    placing = Placing()
    order = await placing(draft())

    (found,) = placing.settler.found
    assert (found.state, found.version) == (OrderState.PENDING_PAYMENT, 1)
    assert (order.state, order.id) == (OrderState.PAID, found.id)
    assert placing.settler.deadlines == [UNTIL]


async def test_the_gateway_is_asked_after_the_write_and_the_outcome_written_after_that() -> None:
    process = Process(World())
    assert (await process.place()).state is OrderState.PAID
    assert process.journal == ["place", "charge", "save"]


async def test_id_and_times_are_of_one_moment() -> None:
    placing = Placing()
    placing.clock.advance(timedelta(days=1))
    order = await placing(draft())
    assert order.create_time == NOW + timedelta(days=1)
    assert order.id == order_id(1, order.create_time)


async def test_a_new_order_is_leased_to_who_placed_it() -> None:
    world = World()
    world.gateway.next(Trouble.HANG)
    order = await Process(world).place(budget_s=0)
    lease_end = world.clock() + LEASE

    for now, due in [(lease_end - timedelta(microseconds=1), 0), (lease_end, 1)]:
        world.clock.now = now
        leased = await world.store.lease_due(lease=LEASE, limit=1)
        assert [one.order for one in leased] == [order] * due


async def test_without_an_outcome_in_time_the_order_is_returned_pending() -> None:
    world = World()
    writing = Hold("store", "save")
    process = Process(world, pass_=writing)

    order = await process.place(budget_s=0.01)

    assert (order.state, order.version) == (OrderState.PENDING_PAYMENT, 1)
    assert await world.store.get(order.id) == order
    writing.open()
    await process.settlement.drain(timeout_s=LONG_S)
    assert (await world.store.get(order.id)).state is OrderState.PAID


async def test_a_broken_gateway_does_not_make_an_order_fail() -> None:
    world = World()
    world.gateway.next(Trouble.UNREACHABLE)
    order = await Process(world).place()
    assert order.state is OrderState.PENDING_PAYMENT
    await world.recover()
    assert (await world.audit(order)).clean


async def test_a_replay_returns_the_order_as_it_is_now_and_asks_nobody() -> None:
    placing = Placing()
    first = await placing(draft())
    placing.clock.advance(timedelta(days=1))

    assert await placing(draft()) == first
    assert len(placing.settler.found) == 1
    assert await placing.store.list(OrderQuery(limit=10)) == [first]


async def test_a_replay_of_a_pending_order_has_the_stored_one_paid() -> None:
    world = World()
    world.gateway.next(Trouble.UNREACHABLE)
    pending = await Process(world).place()
    assert pending.state is OrderState.PENDING_PAYMENT

    replayed = await Process(world).place()

    assert (replayed.id, replayed.state) == (pending.id, OrderState.PAID)
    assert (await world.audit(pending, replayed)).clean


async def test_a_request_id_belongs_to_one_content() -> None:
    placing = Placing()
    first = await placing(draft())

    with pytest.raises(RequestIdReused) as caught:
        await placing(draft(items=ITEMS[:1]))

    assert caught.value.request_id == first.request_id
    assert len(placing.settler.found) == 1


async def test_an_invalid_order_is_neither_written_nor_remembered() -> None:
    placing = Placing()
    with pytest.raises(InvalidOrder):
        await placing(draft(items=()))

    assert await placing.store.list(OrderQuery(limit=10)) == []
    assert placing.settler.found == []
    assert (await placing(draft())).state is OrderState.PAID


@pytest.mark.parametrize("done", [False, True], ids=["not written", "written"])
@pytest.mark.parametrize(
    "failure", [StoreUnavailable("gone"), StoreOverloaded("full"), DeadlineExpired("late")]
)
async def test_when_the_write_fails_nothing_is_charged_and_a_replay_is_safe(
    failure: OrderError, done: bool
) -> None:
    world = World()
    process = Process(world, pass_=Fail("store", "place", failure, done=done))

    with pytest.raises(type(failure)):
        await process.place()
    assert world.gateway.calls == []

    order = await process.place()
    assert order.state is OrderState.PAID
    assert await world.orders() == [order]
    assert (await world.audit(order)).clean
