"""Several workers over one store: never two on one order, and harmless when a lease ran out.

Time is virtual. Gateway and store take longer than a lease now and then, workers die and others
take their places, and answers get lost.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from resilience.virtual_time import VirtualEventLoop, now_s

from fakes.clock import FakeClock
from fakes.gateway import FakeGateway, Trouble
from fakes.orders import NOW, new_order
from fakes.process import LONG_S, Process, World
from fakes.steps import Point
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ports import LeasedOrder, Payment, PaymentState
from orderflow_server.payments.worker import PaymentWorker, WorkerOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What the workers are up against.

    Attributes:
        refunds: How many of the orders are under refund; the others are to be charged.
        lease_s: Of an order, in seconds.
        slowest_s: The longest that the gateway or a write takes, each way.
        deaths_s: The seconds between two deaths of a worker.
    """

    workers: int
    concurrency: int
    orders: int
    refunds: int
    lease_s: float
    slowest_s: float
    deaths_s: tuple[float, ...]
    troubles: tuple[Trouble, ...]
    seed: int


plans = st.builds(
    Plan,
    workers=st.integers(2, 4),
    concurrency=st.integers(1, 3),
    orders=st.integers(1, 6),
    refunds=st.integers(0, 2),
    lease_s=st.sampled_from([2.0, 5.0, 30.0]),
    slowest_s=st.sampled_from([0.5, 4.0, 20.0]),
    deaths_s=st.lists(st.floats(0.1, 10.0), max_size=4).map(tuple),
    troubles=st.lists(
        st.sampled_from([Trouble.NONE, Trouble.UNREACHABLE, Trouble.ANSWER_LOST]), max_size=8
    ).map(tuple),
    seed=st.integers(0, 2**32 - 1),
)


class LoopClock(FakeClock):
    """The time of day goes on as the event loop's does."""

    def __init__(self) -> None:
        super().__init__()
        self._began_s = now_s()

    def __call__(self) -> datetime:
        return NOW + timedelta(seconds=now_s() - self._began_s)


class SlowGateway:
    """A gateway that takes its time.

    Attributes:
        at_once: How many calls found another one about the same order under way.
    """

    def __init__(self, gateway: FakeGateway, pause: Callable[[], Awaitable[None]]) -> None:
        self._gateway = gateway
        self._pause = pause
        self._under_way: Counter[UUID] = Counter()
        self.at_once = 0

    async def find(self, order: Order) -> Payment | None:
        return await self._ask(order, self._gateway.find)

    async def charge(self, order: Order) -> Payment:
        return await self._ask(order, self._gateway.charge)

    async def refund(self, order: Order) -> Payment:
        return await self._ask(order, self._gateway.refund)

    async def void(self, order: Order) -> Payment:
        return await self._ask(order, self._gateway.void)

    async def _ask(self, order: Order, how: Callable[[Order], Awaitable[T]]) -> T:
        self.at_once += self._under_way[order.id] > 0
        self._under_way[order.id] += 1
        try:
            await self._pause()
            payment = await how(order)
            await self._pause()
            return payment
        finally:
            self._under_way[order.id] -= 1


class Scene:
    """Workers of several processes over one store and one gateway.

    Attributes:
        longest_s: How long the longest settlement took.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.world = World(clock=LoopClock())
        self.books = self.world.gateway
        self.gateway = SlowGateway(self.books, self._pause)
        self.longest_s = 0.0
        self._processes: list[tuple[Process, asyncio.Task[None]]] = []

    async def run(self) -> None:
        """Until every order rests."""
        await self._place()
        self.books.next(*self._plan.troubles)
        self._processes = [self._start() for _ in range(self._plan.workers)]
        for delay_s in self._plan.deaths_s:
            await asyncio.sleep(delay_s)
            await self._die(self._random.randrange(self._plan.workers))
            self._processes.append(self._start())
        async with asyncio.timeout(600):
            while any(order.state.awaits_gateway for order in await self.world.orders()):
                await asyncio.sleep(1.0)
        while self._processes:
            await self._die(0)

    async def _place(self) -> None:
        for number in range(self._plan.orders + self._plan.refunds):
            order = new_order(number)
            await self.world.store.place(order, lease=timedelta(0))
            if number >= self._plan.orders:
                await self.books.charge(order)
                paid = order.paid(NOW)
                await self.world.store.save(paid)
                await self.world.store.save(paid.refunding(NOW), lease=timedelta(0))

    def _start(self) -> tuple[Process, asyncio.Task[None]]:
        process = Process(self.world, gateway=self.gateway, pass_=self._step)
        worker = PaymentWorker(
            store=self.world.store,
            settle=partial(self._settle, process),
            options=WorkerOptions(
                concurrency=self._plan.concurrency,
                poll_interval_s=0.5,
                lease_s=self._plan.lease_s,
            ),
        )
        return process, asyncio.create_task(worker.run())

    async def _settle(self, process: Process, leased: LeasedOrder) -> None:
        leased_at_s = now_s()
        try:
            await process.settlement.settle_leased(leased, until=Deadline.after(LONG_S))
        finally:
            self.longest_s = max(self.longest_s, now_s() - leased_at_s)

    async def _die(self, number: int) -> None:
        process, running = self._processes.pop(number)
        running.cancel()
        await asyncio.wait({running})
        await process.settlement.drain(timeout_s=0.0)

    async def _step(self, point: Point) -> None:
        if point.of == "store":
            await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.random() * self._plan.slowest_s)


async def work(plan: Plan) -> None:
    scene = Scene(plan)
    await scene.run()

    orders = await scene.world.orders()
    assert (await scene.world.audit(*orders)).clean, "one charge each, and the refunds"
    for order in orders:
        refunded = order.id in {new_order(plan.orders + n).id for n in range(plan.refunds)}
        assert order.state is (OrderState.CANCELLED if refunded else OrderState.PAID)
        assert scene.books.state_of(order) is (
            PaymentState.REFUNDED if refunded else PaymentState.CHARGED
        )
        changes = await scene.world.store.changes(order.id, after_version=0)
        assert [change.version for change in changes] == ([1, 2, 3, 4] if refunded else [1, 2])
    if scene.longest_s < plan.lease_s:
        assert not scene.gateway.at_once, "while its lease lasts an order is one worker's"


@given(plans)
@settings(max_examples=300)
def test_no_two_workers_have_one_order_and_no_lease_that_ran_out_charges_twice(plan: Plan) -> None:
    loop = VirtualEventLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(work(plan))
    assert loop.complaints == []


def test_leases_do_run_out_while_a_settlement_is_under_way() -> None:
    """What the property above says of them is something."""
    plan = Plan(
        workers=3,
        concurrency=2,
        orders=4,
        refunds=1,
        lease_s=2.0,
        slowest_s=20.0,
        deaths_s=(),
        troubles=(),
        seed=1,
    )

    async def overlapping() -> int:
        scene = Scene(plan)
        await scene.run()
        return scene.gateway.at_once

    with asyncio.Runner(loop_factory=VirtualEventLoop) as runner:
        assert runner.run(overlapping()) > 0
