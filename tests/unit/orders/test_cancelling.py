"""Cancelling: from every state, and beside a charge that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from fakes.gateway import Trouble
from fakes.orders import order_id
from fakes.process import LEASE, LONG_S, Fail, Hold, Process, World, tasks_left, until
from orderflow_server.orders.errors import (
    IllegalTransition,
    OrderNotFound,
    PaymentUnresolved,
    StoreUnavailable,
)
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import PaymentState
from orderflow_server.payments.gateway import PaymentRefused

PENDING = OrderState.PENDING_PAYMENT
PAID = OrderState.PAID
DECLINED = OrderState.PAYMENT_DECLINED
REFUNDING = OrderState.REFUNDING
CANCELLED = OrderState.CANCELLED


async def placed(world: World, *troubles: Trouble) -> Order:
    """An order whose charge met these troubles; the gateway's calls are forgotten."""
    world.gateway.next(*troubles)
    order = await Process(world).place()
    world.gateway.calls.clear()
    return order


async def history(world: World, order: Order) -> list[OrderState]:
    """The states an order went through, which its versions number without gaps."""
    changes = await world.store.changes(order.id, after_version=0)
    assert [change.version for change in changes] == list(range(1, len(changes) + 1))
    return [change.state for change in changes]


# --- from every state ------------------------------------------------------------------


async def test_there_must_be_an_order() -> None:
    with pytest.raises(OrderNotFound):
        await Process(World()).cancel(order_id(1))


async def test_a_paid_order_gets_its_money_back() -> None:
    world = World()
    order = await placed(world)
    process = Process(world)

    cancelled = await process.cancel(order.id)

    assert await world.store.get(order.id) == cancelled
    assert await history(world, order) == [PENDING, PAID, REFUNDING, CANCELLED]
    assert world.gateway.state_of(order) is PaymentState.REFUNDED
    assert process.journal == ["save", "refund", "save"], "the intent is durable before the refund"


async def test_a_pending_order_that_was_never_charged_is_fenced_and_cancelled() -> None:
    world = World()
    order = await placed(world, Trouble.UNREACHABLE)
    process = Process(world)

    cancelled = await process.cancel(order.id)

    assert (cancelled.state, cancelled.version) == (CANCELLED, 2)
    assert process.journal == ["void", "save"]
    late = await world.gateway.charge(order)
    assert late.state is PaymentState.VOIDED
    assert world.gateway.ledger.entries() == ()


async def test_a_pending_order_that_was_charged_after_all_gets_its_money_back() -> None:
    world = World()
    order = await placed(world, Trouble.ANSWER_LOST)

    cancelled = await Process(world).cancel(order.id)

    assert cancelled.state is CANCELLED
    assert await history(world, order) == [PENDING, PAID, REFUNDING, CANCELLED]
    assert (await world.audit(order)).clean


async def test_a_pending_order_that_was_declined_after_all_cannot_be_cancelled() -> None:
    world = World()
    world.gateway.decline_reason = "no funds"
    order = await placed(world, Trouble.ANSWER_LOST)

    with pytest.raises(IllegalTransition) as caught:
        await Process(world).cancel(order.id)

    assert caught.value.state is DECLINED
    stored = await world.store.get(order.id)
    assert (stored.state, stored.decline_reason) == (DECLINED, "no funds")


async def test_a_declined_order_cannot_be_cancelled() -> None:
    world = World()
    world.gateway.decline_reason = "no funds"
    order = await placed(world)

    with pytest.raises(IllegalTransition):
        await Process(world).cancel(order.id)

    assert await world.store.get(order.id) == order
    assert world.gateway.calls == []


async def test_a_cancelled_order_is_returned_as_it_is() -> None:
    world = World()
    order = await placed(world)
    cancelled = await Process(world).cancel(order.id)
    process = Process(world)

    assert await process.cancel(order.id) == cancelled
    assert process.journal == []


async def test_an_order_under_refund_is_finished() -> None:
    world = World()
    order = await placed(world)
    world.gateway.next(Trouble.UNREACHABLE)
    assert (await Process(world).cancel(order.id)).state is REFUNDING

    assert (await Process(world).cancel(order.id)).state is CANCELLED

    assert await history(world, order) == [PENDING, PAID, REFUNDING, CANCELLED]
    assert (await world.audit(order)).clean


# --- a gateway in trouble --------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "error"),
    [
        (Trouble.UNREACHABLE, PaymentUnresolved),
        (Trouble.ANSWER_LOST, PaymentUnresolved),
        (Trouble.REFUSED, PaymentRefused),
    ],
)
async def test_when_the_charge_cannot_be_found_out_the_order_stays_as_it_was(
    trouble: Trouble, error: type[Exception]
) -> None:
    world = World()
    order = await placed(world, Trouble.UNREACHABLE)
    world.gateway.next(trouble)

    with pytest.raises(error):
        await Process(world).cancel(order.id)

    assert await world.store.get(order.id) == order
    await world.recover()
    fenced = trouble is Trouble.ANSWER_LOST
    assert (await world.store.get(order.id)).state is (CANCELLED if fenced else PAID)
    assert (await world.audit(order)).clean


@pytest.mark.parametrize("trouble", [Trouble.UNREACHABLE, Trouble.ANSWER_LOST, Trouble.REFUSED])
async def test_a_refund_without_an_answer_is_finished_later(trouble: Trouble) -> None:
    world = World()
    order = await placed(world)
    world.gateway.next(trouble)

    refunding = await Process(world).cancel(order.id)

    assert (refunding.state, refunding.version) == (REFUNDING, 3)
    assert await world.store.get(order.id) == refunding
    await world.recover()
    assert (await world.store.get(order.id)).state is CANCELLED
    assert (await world.audit(order)).clean


async def test_a_refund_that_takes_too_long_goes_on_without_the_caller() -> None:
    world = World()
    order = await placed(world)
    hold = Hold("gateway", "refund")
    process = Process(world, pass_=hold)

    assert (await process.cancel(order.id, budget_s=0)).state is REFUNDING

    hold.open()
    await process.settlement.drain(timeout_s=LONG_S)
    assert (await world.store.get(order.id)).state is CANCELLED
    assert tasks_left() == set()


async def test_the_intent_to_refund_is_leased_to_who_wrote_it() -> None:
    world = World()
    order = await placed(world)
    hold = Hold("gateway", "refund")
    process = Process(world, pass_=hold)
    await process.cancel(order.id, budget_s=0)
    lease_end = world.clock() + LEASE

    for now, due in [(lease_end - timedelta(microseconds=1), 0), (lease_end, 1)]:
        world.clock.now = now
        leased = await world.store.lease_due(lease=LEASE, limit=1)
        assert [one.order.state for one in leased] == [REFUNDING] * due
    await process.settlement.drain(timeout_s=0)


# --- beside a charge that is under way -------------------------------------------------


@pytest.mark.parametrize(
    ("charge", "states"),
    [
        # The void reaches the gateway first: the charge finds the key fenced.
        (Trouble.HANG, [PENDING, CANCELLED]),
        # The charge is done first, and only its answer is late.
        (Trouble.HANG_ANSWER, [PENDING, PAID, REFUNDING, CANCELLED]),
    ],
)
@pytest.mark.parametrize("same_process", [True, False])
async def test_a_charge_under_way_loses_or_is_given_back(
    charge: Trouble, states: Sequence[OrderState], same_process: bool
) -> None:
    world = World()
    placing = Process(world)
    cancelling = placing if same_process else Process(world)
    world.gateway.next(charge)
    caller = asyncio.create_task(placing.place())
    await until(lambda: world.gateway.methods == ["charge"])
    (order,) = await world.orders()

    cancelled = await cancelling.cancel(order.id)

    assert cancelled.state is CANCELLED
    world.gateway.release()
    assert await caller == cancelled, "who placed it learns what became of it"
    assert await history(world, order) == states
    assert (await world.audit(order)).clean


async def test_the_charge_s_answer_is_written_between_the_void_and_its_own_write() -> None:
    world = World()
    hold = Hold("gateway", "void", done=True)
    process = Process(world, pass_=hold)
    world.gateway.next(Trouble.HANG_ANSWER)
    placing = asyncio.create_task(process.place())
    await until(lambda: world.gateway.methods == ["charge"])
    (order,) = await world.orders()
    cancelling = asyncio.create_task(process.cancel(order.id))
    await hold.reached()

    world.gateway.release()
    assert (await placing).state is PAID
    hold.open()

    assert (await cancelling).state is CANCELLED
    assert await history(world, order) == [PENDING, PAID, REFUNDING, CANCELLED]
    assert (await world.audit(order)).clean


async def test_two_cancel_at_once_and_the_money_is_given_back_once() -> None:
    world = World()
    order = await placed(world)
    hold = Hold("store", "save")
    processes = [Process(world, pass_=hold), Process(world, pass_=hold)]
    callers = [asyncio.create_task(process.cancel(order.id)) for process in processes]
    await until(lambda: all(process.journal == ["save"] for process in processes))
    hold.open()

    first, second = await asyncio.gather(*callers)

    assert first == second
    assert first.state is CANCELLED
    assert len(world.gateway.ledger.entries()) == 2
    assert await history(world, order) == [PENDING, PAID, REFUNDING, CANCELLED]


@pytest.mark.parametrize("done", [False, True], ids=["not written", "written"])
async def test_a_failed_write_is_the_caller_s_to_repeat(done: bool) -> None:
    world = World()
    order = await placed(world, Trouble.UNREACHABLE)
    process = Process(world, pass_=Fail("store", "save", StoreUnavailable("gone"), done=done))

    with pytest.raises(StoreUnavailable):
        await process.cancel(order.id)

    assert (await process.cancel(order.id)).state is CANCELLED
    assert world.gateway.state_of(order) is PaymentState.VOIDED
