"""The background worker: every due order is tried, nothing ends the loop, and it stops cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from fakes.naps import Naps
from orderflow_client.resilience.events import BreakerChanged, BreakerState
from orderflow_client.resilience.ramp import RecoveryRamp
from orderflow_server.orders.errors import PaymentUnresolved, StoreUnavailable
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem
from orderflow_server.orders.ports import REPEATED_ATTEMPTS, LeasedOrder
from orderflow_server.payments.pause import GatewayPause
from orderflow_server.payments.refusals import RefusalWatch
from orderflow_server.payments.worker import PaymentWorker, Settle, WorkerOptions

NOW = datetime(2025, 1, 1, tzinfo=UTC)
OPTIONS = WorkerOptions(concurrency=4, poll_interval_s=1.0, lease_s=30.0)


def order(number: int, attempts: int = 1) -> LeasedOrder:
    draft = OrderDraft(UUID(int=number), "customer", (OrderItem("sku", 1, Money("EUR", 1)),), "t")
    return LeasedOrder(Order.place(draft, order_id=UUID(int=number), now=NOW), attempts)


class DueOrders:
    """Orders that are due, given out once.

    Attributes:
        limits: The `limit` of every call so far.
        repeated: The `repeated` of every call so far.
        failures: Raised, one per call, before anything is given out.
        hold: Blocks the calls while it is not set.
    """

    def __init__(self, due: Sequence[LeasedOrder] = ()) -> None:
        self.due = list(due)
        self.limits: list[int] = []
        self.repeated: list[int | None] = []
        self.failures: list[Exception] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        self.limits.append(limit)
        self.repeated.append(repeated)
        await self.hold.wait()
        assert lease == timedelta(seconds=OPTIONS.lease_s)
        if self.failures:
            raise self.failures.pop(0)
        fresh = [each for each in self.due if each.attempts <= REPEATED_ATTEMPTS]
        others = [each for each in self.due if each.attempts > REPEATED_ATTEMPTS]
        leased = (fresh + others[: len(others) if repeated is None else repeated])[:limit]
        self.due = [each for each in self.due if each not in leased]
        return leased


class Desk:
    """Settles orders when the test lets it, and remembers which and how many at a time."""

    def __init__(self, *, open_: bool = True) -> None:
        self.begun: list[int] = []
        self.settled: list[int] = []
        self.now = 0
        self.most = 0
        self.open = asyncio.Event()
        if open_:
            self.open.set()

    async def __call__(self, leased: LeasedOrder) -> None:
        self.begun.append(leased.order.id.int)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.open.wait()
            self.settled.append(leased.order.id.int)
        finally:
            self.now -= 1


@asynccontextmanager
async def working(
    store: DueOrders,
    settle: Settle,
    naps: Callable[[float], Awaitable[None]],
    pause: GatewayPause | None = None,
    ramp: RecoveryRamp | None = None,
) -> AsyncIterator[tuple[PaymentWorker, asyncio.Task[None]]]:
    worker = PaymentWorker(
        store=store, settle=settle, options=OPTIONS, pause=pause, ramp=ramp, sleep=naps
    )
    running = asyncio.create_task(worker.run())
    try:
        yield worker, running
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(condition: Callable[[], bool]) -> None:
    """Lets every other task run until the condition holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


async def test_it_settles_all_that_is_due_and_then_rests() -> None:
    store, desk, naps = DueOrders([order(n) for n in range(1, 11)]), Desk(), Naps()
    async with working(store, desk, naps):
        await naps.fallen_asleep()
        assert sorted(desk.settled) == list(range(1, 11))
        assert naps.delays == [OPTIONS.poll_interval_s]

        store.due = [order(11)]
        await naps.next()
        assert desk.settled[-1] == 11


async def test_it_leases_only_what_it_can_start_at_once() -> None:
    store, desk, naps = DueOrders([order(n) for n in range(1, 11)]), Desk(open_=False), Naps()
    async with working(store, desk, naps):
        await until(lambda: desk.now == 4)
        assert store.limits == [4]
        assert len(store.due) == 6

        desk.open.set()
        await naps.fallen_asleep()

    assert sorted(desk.settled) == list(range(1, 11))
    assert desk.most == 4


async def test_a_slow_order_does_not_hold_up_the_others() -> None:
    store, naps = DueOrders([order(n) for n in range(1, 21)]), Naps()
    settled: list[int] = []
    slow = asyncio.Event()

    async def settle(leased: LeasedOrder) -> None:
        if leased.order.id.int == 1:
            await slow.wait()
        settled.append(leased.order.id.int)

    async with working(store, settle, naps):
        await naps.fallen_asleep()
        assert sorted(settled) == list(range(2, 21))


async def test_a_wake_ends_the_rest() -> None:
    store, desk, naps = DueOrders(), Desk(), Naps()
    async with working(store, desk, naps) as (worker, _):
        await naps.fallen_asleep()
        store.due = [order(1)]
        worker.wake()
        await until(lambda: desk.settled == [1])


async def test_a_wake_while_the_store_is_asked_is_not_missed() -> None:
    store, desk, naps = DueOrders(), Desk(), Naps()
    store.hold.clear()
    async with working(store, desk, naps) as (worker, _):
        await until(lambda: len(store.limits) == 1)
        worker.wake()
        store.hold.set()
        await until(lambda: len(store.limits) == 2)


async def test_one_order_s_failure_is_logged_and_leaves_the_others_alone() -> None:
    store, naps = DueOrders([order(n) for n in range(1, 7)]), Naps()
    settled: list[int] = []
    cause = ConnectionResetError("connection reset")

    async def settle(leased: LeasedOrder) -> None:
        if leased.order.id.int == 2:
            raise PaymentUnresolved(leased.order.id) from cause
        settled.append(leased.order.id.int)

    with capture_logs() as logs:
        async with working(store, settle, naps):
            await naps.fallen_asleep()
            store.due = [order(7)]
            await naps.next()

    assert settled == [1, 3, 4, 5, 6, 7]
    (line,) = logs
    assert line["log_level"] == "warning"
    assert line["order_id"] == str(UUID(int=2))
    assert line["exc_info"].__cause__ is cause


def levels(logs: Sequence[EventDict]) -> list[Any]:
    return [line["log_level"] for line in logs]


async def test_a_failing_store_is_asked_ever_less_often_and_logged_once_a_streak() -> None:
    store, desk, naps = DueOrders([order(1)]), Desk(), Naps()
    store.failures = [StoreUnavailable("down") for _ in range(9)]
    with capture_logs() as logs:
        async with working(store, desk, naps):
            for _ in range(9):
                await naps.next()
            assert naps.delays[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
            assert desk.settled == [1]
            assert levels(logs) == ["warning", "info"]
            assert logs[1]["failures"] == 9

            store.failures = [ValueError("a defect does not end the loop either")]
            await naps.next()
            assert naps.delays[-2:] == [OPTIONS.poll_interval_s, 0.1]
            assert levels(logs) == ["warning", "info", "warning"]


async def test_a_wake_does_not_hurry_a_failing_store() -> None:
    store, desk, naps = DueOrders(), Desk(), Naps()
    store.failures = [StoreUnavailable("down")]
    async with working(store, desk, naps) as (worker, _):
        await naps.fallen_asleep()
        for _ in range(20):
            worker.wake()
            await asyncio.sleep(0)
        assert store.limits == [4]


class Gateway:
    """A gateway whose breaker the test has in its hands."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.pause = GatewayPause(clock=lambda: self.now_s)
        self.state = BreakerState.CLOSED

    def breaker(self, new: BreakerState, *, open_for_s: float = 0.0) -> None:
        self.pause(BreakerChanged(name="gateway", old=self.state, new=new, open_for_s=open_for_s))
        self.state = new


async def test_while_the_breaker_is_open_nothing_is_leased() -> None:
    store, desk, naps, gateway = DueOrders([order(1)]), Desk(), Naps(), Gateway()
    gateway.breaker(BreakerState.OPEN, open_for_s=2.5)
    async with working(store, desk, naps, gateway.pause) as (worker, _):
        await naps.fallen_asleep()
        worker.wake()
        gateway.now_s += 1.0
        await naps.next()
        gateway.now_s += 1.0
        await naps.next()
        assert naps.delays == [1.0, 1.0, 0.5], "in short rests: another call may close it"
        assert store.limits == []

        gateway.now_s += 0.5
        await naps.next()
        assert desk.settled == [1]


async def test_after_that_one_order_is_tried_and_the_others_when_it_went_well() -> None:
    store, desk, naps, gateway = (
        DueOrders([order(n) for n in range(1, 9)]),
        Desk(),
        Naps(),
        Gateway(),
    )
    probe = asyncio.Event()

    async def settle(leased: LeasedOrder) -> None:
        if gateway.state is not BreakerState.CLOSED:
            gateway.breaker(BreakerState.HALF_OPEN)
            await probe.wait()
            gateway.breaker(BreakerState.CLOSED)
        await desk(leased)

    gateway.breaker(BreakerState.OPEN, open_for_s=1.0)
    gateway.now_s += 1.0
    async with working(store, settle, naps, gateway.pause):
        await until(lambda: gateway.state is BreakerState.HALF_OPEN)
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.limits == [1]

        probe.set()
        await naps.fallen_asleep()
        assert sorted(desk.settled) == list(range(1, 9))
        assert store.limits[1] == 4


async def test_an_outage_costs_one_order_at_a_time_an_attempt() -> None:
    store, naps, gateway = DueOrders([order(n) for n in range(1, 9)]), Naps(), Gateway()
    tried: list[int] = []

    async def settle(leased: LeasedOrder) -> None:
        tried.append(leased.order.id.int)
        gateway.breaker(BreakerState.HALF_OPEN)
        gateway.breaker(BreakerState.OPEN, open_for_s=1.0)

    gateway.breaker(BreakerState.OPEN, open_for_s=1.0)
    async with working(store, settle, naps, gateway.pause):
        await naps.fallen_asleep()
        for probes in range(1, 4):
            gateway.now_s += 1.0
            await naps.next()
            assert tried == list(range(1, probes + 1))


REPEATED = REPEATED_ATTEMPTS + 1


async def test_orders_that_failed_repeatedly_hold_a_quarter_of_the_slots_at_most() -> None:
    store, naps = DueOrders([order(n, REPEATED) for n in range(1, 26)]), Naps()
    hang = asyncio.Event()
    begun: list[int] = []

    async def settle(leased: LeasedOrder) -> None:
        begun.append(leased.order.id.int)
        if leased.attempts == REPEATED:
            await hang.wait()

    async with working(store, settle, naps):
        await naps.fallen_asleep()
        assert begun == [1], "one of four slots"
        store.due += [order(n) for n in range(100, 150)]
        await naps.next()
        assert begun == [1, *range(100, 150)], "the others go on"

        hang.set()
        await until(lambda: len(begun) == 25 + 50)


async def test_a_probe_is_a_fresh_order_when_there_is_one() -> None:
    due = [order(1, REPEATED), order(2, REPEATED), order(3)]
    store, naps, gateway = DueOrders(due), Naps(), Gateway()
    tried: list[int] = []

    async def settle(leased: LeasedOrder) -> None:
        tried.append(leased.order.id.int)

    gateway.breaker(BreakerState.OPEN, open_for_s=1.0)
    gateway.now_s += 1.0
    async with working(store, settle, naps, gateway.pause):
        await until(lambda: len(tried) == 2)
        assert tried == [3, 1], "and one that failed repeatedly when there is none"


async def test_while_refusals_are_widespread_one_order_is_tried_at_a_time() -> None:
    store, naps = DueOrders([order(n) for n in range(1, 30)]), Naps()
    now_s = 1_000.0
    watch = RefusalWatch(lambda _: None, clock=lambda: now_s)
    tried: list[int] = []

    async def settle(leased: LeasedOrder) -> None:
        tried.append(leased.order.id.int)
        if now_s < 1_010.0:
            watch.refused(leased.order.id, grpc.StatusCode.UNIMPLEMENTED)
        else:
            watch.answered()

    async with working(store, settle, naps, GatewayPause(watch, clock=lambda: now_s)):
        await naps.fallen_asleep()
        begun = len(tried)
        assert begun <= 8, "what had begun when it was noticed"
        while now_s < 1_010.0:
            now_s += naps.delays[-1]
            await naps.next()
        assert len(tried) <= begun + 5
        while len(tried) < 29:
            now_s += naps.delays[-1]
            await naps.next()


async def test_after_an_outage_it_starts_orders_as_the_ramp_allows() -> None:
    store, desk, naps = DueOrders([order(n) for n in range(1, 101)]), Desk(), Naps()
    now_s = 0.0
    ramp = RecoveryRamp(max_per_s=10, clock=lambda: now_s)
    closed = BreakerChanged(
        name="gateway", old=BreakerState.HALF_OPEN, new=BreakerState.CLOSED, open_for_s=0.0
    )
    ramp(closed)
    async with working(store, desk, naps, ramp=ramp):
        while now_s < 5.0:
            await naps.fallen_asleep()
            now_s += max(naps.delays[-1], 0.001)
            await naps.next()
        assert len(desk.settled) == pytest.approx(50, abs=5)


async def test_a_pause_ends_at_once_when_it_is_stopped() -> None:
    store, desk, naps, gateway = DueOrders([order(1)]), Desk(), Naps(), Gateway()
    gateway.breaker(BreakerState.OPEN, open_for_s=60.0)
    async with working(store, desk, naps, gateway.pause) as (worker, running):
        await naps.fallen_asleep()
        await worker.stop(timeout_s=5)
        await running
    assert desk.begun == []


async def test_stop_lets_running_settlements_finish_and_leases_no_more() -> None:
    store, desk, naps = DueOrders([order(n) for n in range(1, 11)]), Desk(open_=False), Naps()
    async with working(store, desk, naps) as (worker, running):
        await until(lambda: desk.now == 4)
        stopping = asyncio.create_task(worker.stop(timeout_s=5))
        await asyncio.sleep(0)
        assert not stopping.done()

        desk.open.set()
        await stopping
        await running

    assert desk.settled == [1, 2, 3, 4]
    assert len(store.due) == 6


async def test_what_was_being_leased_when_it_was_stopped_is_settled_too() -> None:
    store, desk, naps = DueOrders([order(1)]), Desk(), Naps()
    store.hold.clear()
    async with working(store, desk, naps) as (worker, running):
        await until(lambda: len(store.limits) == 1)
        stopping = asyncio.create_task(worker.stop(timeout_s=5))
        await asyncio.sleep(0)
        store.hold.set()
        await stopping
        await running

    assert desk.settled == [1]


@pytest.mark.parametrize("failing", [False, True])
async def test_stop_ends_a_rest_at_once(failing: bool) -> None:
    store, desk, naps = DueOrders(), Desk(), Naps()
    if failing:
        store.failures = [StoreUnavailable("down")]
    async with working(store, desk, naps) as (worker, running):
        await naps.fallen_asleep()
        await worker.stop(timeout_s=5)
        await running


async def test_stop_cuts_late_settlements_short_and_says_so() -> None:
    store, desk, naps = DueOrders([order(1), order(2)]), Desk(open_=False), Naps()
    with capture_logs() as logs:
        async with working(store, desk, naps) as (worker, running):
            await until(lambda: desk.now == 2)
            await worker.stop(timeout_s=0.01)
            await running

    assert desk.now == 0
    assert desk.settled == []
    (line,) = logs
    assert (line["log_level"], line["orders"]) == ("warning", 2)


async def test_stop_without_run_returns_at_once() -> None:
    worker = PaymentWorker(store=DueOrders(), settle=Desk(), options=OPTIONS)
    await worker.stop(timeout_s=5)


async def test_cancelling_run_cancels_its_settlements_and_leaves_no_task_behind() -> None:
    store, desk, naps = DueOrders([order(1), order(2)]), Desk(open_=False), Naps()
    before = asyncio.all_tasks()
    async with working(store, desk, naps) as (_, running):
        await until(lambda: desk.now == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert desk.now == 0

    await until(lambda: asyncio.all_tasks() == before)
    assert desk.settled == []


@pytest.mark.parametrize(
    ("name", "value"), [("concurrency", 0), ("poll_interval_s", 0.0), ("lease_s", -1.0)]
)
def test_an_option_out_of_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        WorkerOptions(**{name: value})  # type: ignore[arg-type]  # one field by its name
