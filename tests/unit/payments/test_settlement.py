"""Settlement: nothing is lost when its callers leave, and money and order agree."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from fakes.gateway import FakeGateway, Trouble
from fakes.orders import new_order
from fakes.process import LEASE, LONG_S, Fail, Hold, Process, World, tasks_left, until
from fakes.steps import Point
from orderflow_client.rejection import rejection_error
from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import at_least_extended
from orderflow_client.resilience.breaker import BreakerOpen
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import PaymentInvalid, PaymentUnresolved, StoreUnavailable
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import LeasedOrder, Payment, PaymentState
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.settlement import (
    MAX_ATTEMPTS,
    OrderSettled,
    SettlementDeferred,
    SettlementParked,
)

PENDING = OrderState.PENDING_PAYMENT
PAID = OrderState.PAID
REFUNDING = OrderState.REFUNDING
CANCELLED = OrderState.CANCELLED


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """At the end no task is left."""
    yield World()
    await until(lambda: not tasks_left())


async def pending(world: World, number: int = 1) -> Order:
    """A new order in the store."""
    order = new_order(number)
    return await world.store.place(order, lease=LEASE)


async def refunding(world: World) -> Order:
    """An order that was charged and whose refund is under way."""
    order = await pending(world)
    await world.gateway.charge(order)
    world.gateway.calls.clear()
    paid = order.paid(world.clock())
    await world.store.save(paid)
    order = paid.refunding(world.clock())
    await world.store.save(order, lease=LEASE)
    return order


async def due(world: World, after: timedelta) -> list[LeasedOrder]:
    """What a worker would be given after this time."""
    world.clock.advance(after)
    leased = await world.store.lease_due(lease=LEASE, limit=10)
    world.clock.advance(-after)
    return list(leased)


# --- an answer -------------------------------------------------------------------------


async def test_a_charge_is_written_down_and_told(world: World) -> None:
    process = Process(world)
    order = await pending(world)
    world.clock.advance(timedelta(seconds=3))

    settled = await process.settlement.settle(order, until=Deadline.after(LONG_S))

    assert (settled.state, settled.version) == (PAID, 2)
    assert settled.update_time == world.clock()
    assert await world.store.get(order.id) == settled
    assert process.journal == ["charge", "save"]
    assert process.events == [OrderSettled(settled)]


async def test_a_decline_is_written_down_with_the_gateway_s_words(world: World) -> None:
    process = Process(world)
    world.gateway.decline_reason = "no funds"

    settled = await process.settlement.settle(await pending(world), until=Deadline.after(LONG_S))

    assert (settled.state, settled.decline_reason) == (OrderState.PAYMENT_DECLINED, "no funds")
    assert await world.store.get(settled.id) == settled


async def test_a_refund_is_asked_for_an_order_under_refund(world: World) -> None:
    process = Process(world)
    settled = await process.settlement.settle(await refunding(world), until=Deadline.after(LONG_S))

    assert (settled.state, settled.version) == (CANCELLED, 4)
    assert world.gateway.methods == ["refund"]
    assert world.gateway.state_of(settled) is PaymentState.REFUNDED


async def test_a_payment_voided_by_a_process_that_died_cancels_the_order(world: World) -> None:
    order = await pending(world)
    await world.gateway.void(order)
    settled = await Process(world).settlement.settle(order, until=Deadline.after(LONG_S))
    assert settled.state is CANCELLED


async def test_the_worker_settles_what_it_leased(world: World) -> None:
    process = Process(world)
    order = await pending(world)
    (leased,) = await due(world, LEASE)

    await process.settlement.settle_leased(leased, until=Deadline.after(LONG_S))

    assert (await world.store.get(order.id)).state is PAID


# --- no answer -------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [Trouble.UNREACHABLE, Trouble.ANSWER_LOST])
async def test_without_an_answer_the_order_stays_and_is_tried_again_later(
    world: World, trouble: Trouble
) -> None:
    process = Process(world, retry_delay=lambda attempts: timedelta(seconds=5 + attempts))
    world.gateway.next(trouble)
    order = await pending(world)

    assert await process.settlement.settle(order, until=Deadline.after(LONG_S)) == order

    assert await world.store.get(order.id) == order
    assert process.journal == ["charge", "defer"]
    (told,) = process.events
    assert isinstance(told, SettlementDeferred)
    assert (told.order_id, told.attempts, told.delay) == (order.id, 0, timedelta(seconds=5))
    assert isinstance(told.cause, PaymentUnresolved)
    assert isinstance(told.cause.__cause__, ConnectionError)
    assert await due(world, timedelta(seconds=4.999)) == []
    assert [leased.order for leased in await due(world, timedelta(seconds=5))] == [order]


async def test_the_worker_s_attempts_make_the_rest_longer(world: World) -> None:
    process = Process(world, retry_delay=lambda attempts: timedelta(seconds=10 * attempts))
    world.gateway.next(Trouble.UNREACHABLE)
    order = await pending(world)

    await process.settlement.settle_leased(
        LeasedOrder(order, attempts=3), until=Deadline.after(LONG_S)
    )

    (told,) = process.events
    assert isinstance(told, SettlementDeferred)
    assert (told.attempts, told.delay) == (3, timedelta(seconds=30))
    assert await due(world, timedelta(seconds=29)) == []


async def test_what_a_caller_was_refused_the_worker_asks_once_more(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.REFUSED)
    order = await pending(world)

    assert await process.settlement.settle(order, until=Deadline.after(LONG_S)) == order

    (told,) = process.events
    assert isinstance(told, SettlementDeferred)
    assert isinstance(told.cause, PaymentRefused)
    assert [leased.order for leased in await due(world, told.delay)] == [order]


async def test_a_lost_answer_is_found_again_under_the_same_key(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.ANSWER_LOST)
    order = await pending(world)

    await process.settlement.settle(order, until=Deadline.after(LONG_S))
    settled = await process.settlement.settle(order, until=Deadline.after(LONG_S))

    assert settled.state is PAID
    assert world.gateway.methods == ["charge", "charge"]
    assert len(world.gateway.ledger.entries()) == 1


# --- parked ----------------------------------------------------------------------------


async def parked(world: World) -> list[Order]:
    return [each.order for each in await world.store.parked(limit=10)]


async def work(world: World, process: Process) -> None:
    """The worker's turn, a day later."""
    world.clock.advance(timedelta(days=1))
    for leased in await due(world, timedelta()):
        await process.settlement.settle_leased(leased, until=Deadline.after(LONG_S))


@pytest.mark.parametrize("refunds", [False, True], ids=["a charge", "a refund"])
async def test_order_that_the_worker_is_refused_twice_is_parked(
    world: World, refunds: bool
) -> None:
    process = Process(world)
    order = await (refunding(world) if refunds else pending(world))
    world.gateway.next(Trouble.REFUSED, Trouble.REFUSED)

    await work(world, process)
    assert await parked(world) == [], "it is asked about once more"
    await work(world, process)

    assert await parked(world) == [order], "as it was, but for that"
    assert await due(world, timedelta(days=2)) == []
    deferred, told = process.events
    assert isinstance(deferred, SettlementDeferred)
    assert isinstance(told, SettlementParked)
    assert (told.order_id, told.attempts) == (order.id, 2)
    assert told.reason == "REFUSED_INVALID_ARGUMENT: AS_TOLD"
    assert isinstance(told.cause, PaymentRefused)
    [stored] = await world.store.parked(limit=1)
    assert (stored.reason, stored.attempts) == (told.reason, 2)


async def test_refusals_that_hit_many_orders_park_none_of_them(world: World) -> None:
    process = Process(world)
    orders = [await pending(world, number) for number in range(1, 9)]
    world.gateway.next(*[Trouble.REFUSED] * 8 * 4)

    for _ in range(4):
        await work(world, process)
    assert await parked(world) == []

    await work(world, process)  # The gateway is well again.
    assert {(await world.store.get(order.id)).state for order in orders} == {PAID}
    assert len(world.gateway.ledger.entries()) == 8


# --- wrong answers ---------------------------------------------------------------------


class Liar(FakeGateway):
    """A gateway whose answers do not fit the question, whatever it does."""

    async def find(self, order: Order) -> Payment | None:
        raise PaymentInvalid(order.id, "amount", "the amount is not the order's total")

    async def charge(self, order: Order) -> Payment:
        await super().charge(order)
        raise PaymentInvalid(order.id, "amount", "the amount is not the order's total")


@pytest.mark.parametrize("by_worker", [False, True])
async def test_order_is_parked_after_a_wrong_answer(world: World, by_worker: bool) -> None:
    process = Process(world, gateway=Liar(world.clock))
    order = await pending(world)

    if by_worker:
        await work(world, process)
    else:
        assert await process.settlement.settle(order, until=Deadline.after(LONG_S)) == order

    assert await world.store.get(order.id) == order
    [stored] = await world.store.parked(limit=10)
    assert stored.reason == "ANSWER_INVALID: amount"
    (told,) = process.events
    assert isinstance(told, SettlementParked)
    assert isinstance(told.cause, PaymentInvalid)


async def test_answer_refunded_parks_a_pending_order(world: World) -> None:
    order = await pending(world)
    await world.gateway.charge(order)
    await world.gateway.refund(order)
    process = Process(world)

    assert await process.settlement.settle(order, until=Deadline.after(LONG_S)) == order

    [stored] = await world.store.parked(limit=10)
    assert stored.reason == "ANSWER_INVALID: state"


async def test_answer_about_a_later_version_parks_nothing(world: World) -> None:
    asking = Hold("gateway", "charge")
    slow, other = Process(world, pass_=asking), Process(world)
    order = await pending(world)
    charging = asyncio.create_task(slow.settlement.settle(order, until=Deadline.after(LONG_S)))
    await asking.reached()

    await other.settlement.settle(order, until=Deadline.after(LONG_S))
    cancelled = await other.cancel(order.id)
    asking.open()

    assert await charging == cancelled
    assert await parked(world) == []
    assert [type(event) for event in slow.events] == []


async def test_wrong_answer_to_a_void_parks_the_order_and_fails_the_caller(world: World) -> None:
    class VoidLiar(FakeGateway):
        async def void(self, order: Order) -> Payment:
            raise PaymentInvalid(order.id, "idempotency_key", "it is about another payment")

    order = await pending(world)
    with pytest.raises(PaymentInvalid):
        await Process(world, gateway=VoidLiar(world.clock)).cancel(order.id)
    [stored] = await world.store.parked(limit=10)
    assert (stored.order, stored.reason) == (order, "ANSWER_INVALID: idempotency_key")


async def test_an_unforeseen_error_backs_off_like_every_other(world: World) -> None:
    class Broken(FakeGateway):
        async def find(self, order: Order) -> Payment | None:
            raise AttributeError("a defect")

    process = Process(world, gateway=Broken(world.clock))
    order = await pending(world)
    await work(world, process)
    (told,) = process.events
    assert isinstance(told, SettlementDeferred)
    assert isinstance(told.cause.__cause__, AttributeError)
    assert await world.store.get(order.id) == order


# --- the worker asks before it charges -------------------------------------------------


async def test_the_worker_asks_for_the_payment_before_it_charges(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.ANSWER_LOST)
    order = await pending(world)
    await process.settlement.settle(order, until=Deadline.after(LONG_S))

    await work(world, process)

    assert (await world.store.get(order.id)).state is PAID
    assert world.gateway.methods == ["charge", "find"]
    assert len(world.gateway.ledger.entries()) == 1


async def test_each_attempt_of_the_worker_waits_longer_for_an_answer(world: World) -> None:
    patience_s: list[float] = []

    class Patient(FakeGateway):
        async def find(self, order: Order) -> Payment | None:
            patience_s.append(at_least_extended(0.0))
            raise PaymentUnresolved(order.id)

        async def charge(self, order: Order) -> Payment:
            patience_s.append(at_least_extended(0.0))
            raise PaymentUnresolved(order.id)

    process = Process(world, gateway=Patient(world.clock))
    order = await pending(world)
    await process.settlement.settle(order, until=Deadline.after(LONG_S))
    for attempts in (1, 2, 3):
        leased = LeasedOrder(order, attempts)
        await process.settlement.settle_leased(leased, until=Deadline.after(LONG_S))
    await process.settlement.settle_leased(LeasedOrder(order, 9), until=Deadline.after(10.0))

    assert patience_s[:4] == [0.0, 2.5, 5.0, 10.0], "a caller's own attempt is not extended"
    assert 0 < patience_s[4] <= 10.0, "never longer than the attempt may take"


async def test_the_worker_charges_where_there_is_no_payment(world: World) -> None:
    process = Process(world)
    order = await pending(world)
    await work(world, process)
    assert (await world.store.get(order.id)).state is PAID
    assert world.gateway.methods == ["find", "charge"]


async def test_a_payment_that_was_voided_before_cancels_the_order(world: World) -> None:
    process = Process(world)
    order = await pending(world)
    await world.gateway.void(order)
    await work(world, process)
    assert (await world.store.get(order.id)).state is CANCELLED


async def test_a_caller_s_own_tries_never_park_it(world: World) -> None:
    process = Process(world, max_attempts=1)
    order = await pending(world)
    world.gateway.next(Trouble.REFUSED, Trouble.UNREACHABLE)

    for _ in range(2):
        await process.settlement.settle(order, until=Deadline.after(LONG_S))

    assert await parked(world) == []


async def test_the_last_attempt_without_an_answer_parks_it(world: World) -> None:
    process = Process(world, max_attempts=3)
    order = await pending(world)
    world.gateway.next(*[Trouble.UNREACHABLE] * 3)

    for _ in range(2):
        await work(world, process)
    assert await parked(world) == []
    await work(world, process)

    assert await parked(world) == [order]
    assert [type(event) for event in process.events] == [
        SettlementDeferred,
        SettlementDeferred,
        SettlementParked,
    ]
    assert await due(world, timedelta(days=2)) == []


async def test_an_attempt_that_the_breaker_kept_back_is_never_the_last(world: World) -> None:
    async def open_breaker(point: Point) -> None:
        if point.of == "gateway" and point.order_id is not None:
            refusal = BreakerOpen("the breaker is open", name="gateway", retry_after_s=5.0)
            raise PaymentUnresolved(point.order_id) from rejection_error(refusal)

    order = await pending(world)
    kept_back = Process(world, max_attempts=1, pass_=open_breaker)
    for _ in range(2):
        await work(world, kept_back)
    assert await parked(world) == []
    assert [
        (type(event), isinstance(event, SettlementDeferred) and event.asked)
        for event in kept_back.events
    ] == [(SettlementDeferred, False)] * 2

    world.gateway.next(Trouble.UNREACHABLE)
    await work(world, Process(world, max_attempts=1))
    assert await parked(world) == [order]


async def test_a_released_order_is_asked_about_again_as_often_as_before(world: World) -> None:
    process = Process(world, max_attempts=2)
    order = await pending(world)
    world.gateway.next(*[Trouble.ANSWER_LOST] * 4)
    for _ in range(2):
        await work(world, process)
    assert await parked(world) == [order]

    assert await world.store.release(order.id)
    await work(world, process)
    assert await parked(world) == []
    await work(world, process)
    assert await parked(world) == [order]

    assert await world.store.release(order.id)
    await work(world, process)
    assert (await world.store.get(order.id)).state is PAID
    assert len(world.gateway.ledger.entries()) == 1
    assert await parked(world) == []


async def test_a_parked_order_can_be_cancelled(world: World) -> None:
    process = Process(world, max_attempts=1)
    order = await pending(world)
    world.gateway.next(Trouble.ANSWER_LOST, Trouble.UNREACHABLE)
    await process.settlement.settle(order, until=Deadline.after(LONG_S))
    await work(world, process)
    assert await parked(world) == [order]

    assert (await process.cancel(order.id)).state is CANCELLED

    assert world.gateway.state_of(order) is PaymentState.REFUNDED
    assert await parked(world) == []


async def test_a_caller_who_repeats_a_parked_order_s_request_asks_about_it(world: World) -> None:
    process = Process(world, max_attempts=1)
    world.gateway.next(Trouble.UNREACHABLE, Trouble.UNREACHABLE, Trouble.UNREACHABLE)
    order = await process.place()
    await work(world, process)

    assert await process.place() == order
    assert await parked(world) == [order], "it stays parked"
    assert (await process.place()).state is PAID
    assert await parked(world) == []


async def test_a_failed_park_leaves_the_order_to_its_lease(world: World) -> None:
    failure = StoreUnavailable("connection lost")
    process = Process(world, max_attempts=1, pass_=Fail("store", "park", failure))
    order = await pending(world)
    world.gateway.next(Trouble.UNREACHABLE, Trouble.UNREACHABLE)

    with pytest.raises(StoreUnavailable):
        await work(world, process)
    assert process.events == []
    await work(world, process)

    assert await parked(world) == [order]


def test_the_default_number_of_attempts_takes_about_a_day() -> None:
    """With the service's delays: 0.5 s doubling to a minute."""
    delays_s = [min(0.5 * 2 ** min(attempts, 16), 60.0) for attempts in range(1, MAX_ATTEMPTS)]
    assert timedelta(hours=23.5) < timedelta(seconds=sum(delays_s)) < timedelta(hours=24.5)


# --- many callers, one attempt ---------------------------------------------------------


async def test_200_callers_share_one_attempt_and_its_answer(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    order = await pending(world)
    callers = [
        asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
        for _ in range(200)
    ]
    await until(lambda: world.gateway.methods == ["charge"])
    world.gateway.release()

    answers = await asyncio.gather(*callers)

    assert {answer.state for answer in answers} == {PAID}
    assert all(answer == answers[0] for answer in answers)
    assert process.journal == ["charge", "save"]


async def test_200_replays_of_a_request_place_one_order_and_charge_once(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    callers = [asyncio.create_task(process.place()) for _ in range(200)]
    await until(lambda: process.journal.count("place") == 200)
    world.gateway.release()

    answers = await asyncio.gather(*callers)

    assert all(answer == answers[0] for answer in answers)
    assert await world.orders() == [answers[0]]
    assert world.gateway.methods == ["charge"]
    assert (await world.audit(*answers)).clean


async def test_different_orders_do_not_wait_for_each_other(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    slow, quick = await pending(world, 1), await pending(world, 2)
    waiting = asyncio.create_task(process.settlement.settle(slow, until=Deadline.after(LONG_S)))
    await until(lambda: len(world.gateway.calls) == 1)

    assert (await process.settlement.settle(quick, until=Deadline.after(LONG_S))).state is PAID
    assert not waiting.done()

    world.gateway.release()
    assert (await waiting).state is PAID


async def test_a_refund_does_not_wait_for_a_charge_that_hangs(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG_ANSWER)
    order = await pending(world)
    charging = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await until(lambda: world.gateway.methods == ["charge"])
    await world.store.save(order.paid(world.clock()))
    under_refund = order.paid(world.clock()).refunding(world.clock())
    await world.store.save(under_refund, lease=LEASE)

    refunded = await process.settlement.settle(under_refund, until=Deadline.after(LONG_S))

    assert (refunded.state, refunded.version) == (CANCELLED, 4)
    world.gateway.release()
    assert await charging == refunded


async def test_an_attempt_that_ended_is_not_joined_again(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.UNREACHABLE)
    order = await pending(world)

    assert await process.settlement.settle(order, until=Deadline.after(LONG_S)) == order
    assert (await process.settlement.settle(order, until=Deadline.after(LONG_S))).state is PAID


# --- callers that leave ----------------------------------------------------------------


async def test_a_cancelled_caller_leaves_the_attempt_to_go_on(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    order = await pending(world)
    caller = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await until(lambda: world.gateway.methods == ["charge"])

    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    world.gateway.release()
    await until(lambda: not tasks_left())

    assert (await world.store.get(order.id)).state is PAID
    assert world.gateway.methods == ["charge"]


async def test_one_caller_s_cancellation_is_not_the_others(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    order = await pending(world)
    first, second = (
        asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
        for _ in range(2)
    )
    await until(lambda: world.gateway.methods == ["charge"])

    first.cancel()
    await asyncio.wait({first})
    world.gateway.release()

    assert first.cancelled()
    assert (await second).state is PAID


async def test_past_its_budget_a_caller_gets_the_order_as_it_is_and_the_attempt_goes_on(
    world: World,
) -> None:
    writing = Hold("store", "save")
    process = Process(world, pass_=writing)
    order = await pending(world)

    assert await process.settlement.settle(order, until=Deadline.after(0.01)) == order

    await writing.reached()
    assert (await world.store.get(order.id)).state is PENDING
    writing.open()
    await until(lambda: not tasks_left())
    assert (await world.store.get(order.id)).state is PAID


async def test_who_joins_with_less_time_waits_less(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    order = await pending(world)
    first = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await until(lambda: world.gateway.methods == ["charge"])

    assert await process.settlement.settle(order, until=Deadline.after(0)) == order
    assert not first.done()

    world.gateway.release()
    assert (await first).state is PAID


async def test_an_attempt_that_fails_with_no_caller_left_fails_in_silence(world: World) -> None:
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    process = Process(world, pass_=Fail("store", "save", StoreUnavailable("disk full")))
    world.gateway.next(Trouble.HANG)
    order = await pending(world)
    caller = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await until(lambda: world.gateway.methods == ["charge"])
    caller.cancel()
    await asyncio.wait({caller})

    world.gateway.release()
    await until(lambda: not process.settlement._running)
    del caller  # It holds the attempt, which complains only when it is forgotten.
    gc.collect()

    assert unseen == []
    assert await world.store.get(order.id) == order
    assert process.journal == ["charge", "save"]


# --- time ------------------------------------------------------------------------------


async def test_the_gateway_gets_the_deadline_of_the_attempt(world: World) -> None:
    process = Process(world)
    order = await pending(world)
    given = Deadline.after(7.0)
    with deadline.within(Deadline.after(1.0)):  # The caller's own is not the attempt's.
        await process.settlement.settle(order, until=given)

    (call,) = world.gateway.calls
    assert call.deadline == given


async def test_a_gateway_that_hangs_beyond_its_time_is_no_answer(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG)
    order = await pending(world)

    assert await process.settlement.settle(order, until=Deadline.after(0.01)) == order
    await until(lambda: bool(process.events))

    (told,) = process.events
    assert isinstance(told, SettlementDeferred)
    assert isinstance(told.cause.__cause__, TimeoutError)


@pytest.mark.parametrize("trouble", [Trouble.NONE, Trouble.UNREACHABLE])
async def test_what_is_known_is_written_down_however_late_it_is(
    world: World, trouble: Trouble
) -> None:
    deadlines: list[Deadline | None] = []

    async def note_deadline(point: Point) -> None:
        if point.of == "store":
            deadlines.append(deadline.current())

    process = Process(world, pass_=note_deadline)
    world.gateway.next(trouble)
    order = await pending(world)
    with deadline.within(Deadline.after(-1)):
        await process.settlement.settle(order, until=Deadline.after(0.0))
    await until(lambda: not tasks_left())

    assert deadlines == [None, None]
    assert len(process.events) == 1


# --- somebody else was first -----------------------------------------------------------


async def test_a_conflict_with_the_same_outcome_returns_what_was_written(world: World) -> None:
    writing = Hold("store", "save")
    process, other = Process(world, pass_=writing), Process(world)
    order = await pending(world)
    late = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await writing.reached()

    first = await other.settlement.settle(order, until=Deadline.after(LONG_S))
    writing.open()

    assert await late == first
    assert process.events == []
    assert len(world.gateway.ledger.entries()) == 1


async def test_a_conflict_with_a_refund_goes_on_with_the_refund(world: World) -> None:
    writing = Hold("store", "save")
    process, other = Process(world, pass_=writing), Process(world)
    world.gateway.next(Trouble.NONE, Trouble.NONE, Trouble.UNREACHABLE)
    order = await pending(world)
    late = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await writing.reached()
    assert (await other.cancel(order.id)).state is REFUNDING
    writing.open()

    settled = await late

    assert (settled.state, settled.version) == (CANCELLED, 4)
    assert world.gateway.methods == ["charge", "void", "refund", "refund"]
    assert world.gateway.state_of(order) is PaymentState.REFUNDED


# --- a store that fails ----------------------------------------------------------------


@pytest.mark.parametrize("done", [False, True], ids=["not written", "written"])
async def test_a_failed_write_reaches_every_caller_and_the_next_attempt_mends_it(
    world: World, done: bool
) -> None:
    failure = StoreUnavailable("connection lost")
    process = Process(world, pass_=Fail("store", "save", failure, done=done))
    order = await pending(world)

    results = await asyncio.gather(
        *(process.settlement.settle(order, until=Deadline.after(LONG_S)) for _ in range(3)),
        return_exceptions=True,
    )
    assert results == [failure] * 3

    assert (await process.settlement.settle(order, until=Deadline.after(LONG_S))).state is PAID
    assert len(world.gateway.ledger.entries()) == 1


async def test_a_failed_defer_leaves_the_order_to_its_lease(world: World) -> None:
    process = Process(world, pass_=Fail("store", "defer", StoreUnavailable("connection lost")))
    world.gateway.next(Trouble.UNREACHABLE)
    order = await pending(world)

    with pytest.raises(StoreUnavailable):
        await process.settlement.settle(order, until=Deadline.after(LONG_S))

    assert process.events == []
    assert [leased.order for leased in await due(world, LEASE)] == [order]


# --- the end ---------------------------------------------------------------------------


async def test_drain_with_nothing_under_way_returns_at_once(world: World) -> None:
    await Process(world).settlement.drain(timeout_s=LONG_S)


async def test_drain_waits_for_the_attempts_under_way(world: World) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG, Trouble.HANG)
    orders = [await pending(world, 1), await pending(world, 2)]
    callers = [
        asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
        for order in orders
    ]
    await until(lambda: len(world.gateway.calls) == 2)

    draining = asyncio.create_task(process.settlement.drain(timeout_s=LONG_S))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not draining.done()
    world.gateway.release()
    await draining

    assert [(await caller).state for caller in callers] == [PAID, PAID]


async def test_drain_cuts_late_attempts_short_and_their_orders_are_found_again(
    world: World,
) -> None:
    process = Process(world)
    world.gateway.next(Trouble.HANG_ANSWER)
    order = await pending(world)
    caller = asyncio.create_task(process.settlement.settle(order, until=Deadline.after(LONG_S)))
    await until(lambda: world.gateway.methods == ["charge"])
    caller.cancel()
    await asyncio.wait({caller})

    await process.settlement.drain(timeout_s=0.01)

    assert tasks_left() == set()
    assert await world.store.get(order.id) == order
    assert world.gateway.state_of(order) is PaymentState.CHARGED
    await world.recover()
    assert (await world.store.get(order.id)).state is PAID
    assert len(world.gateway.ledger.entries()) == 1
