"""Whatever fails wherever, and whoever comes first: money and state agree in the end.

Every call to the store and to the gateway has two points: before it is done, and when it is
done but nobody knows yet. The first half of this file fails each point in turn, once, as an
error or as the death of the process. The second half lets several callers in two processes run
into each other and draws who goes next, what fails, who gives up and when a process dies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.gateway import Trouble
from fakes.process import LONG_S, Process, World, tasks_left
from fakes.steps import Point
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import (
    IllegalTransition,
    OrderError,
    PaymentUnresolved,
    StoreUnavailable,
)
from orderflow_server.orders.order import TRANSITIONS, Order, OrderState
from orderflow_server.orders.ports import PaymentState

DECLINED = OrderState.PAYMENT_DECLINED
REFUNDING = OrderState.REFUNDING
CANCELLED = OrderState.CANCELLED


class Died(BaseException):
    """The process is no more. Nothing catches it, and nothing it does later has an effect."""


def failure_at(point: Point) -> OrderError:
    if point.of == "store":
        return StoreUnavailable("connection lost")
    assert point.order_id is not None
    return PaymentUnresolved(point.order_id)


async def assert_all_is_well(world: World, acknowledged: list[Order]) -> None:
    """Every order rests, its payment says the same, and what callers were told was true."""
    orders = {order.id: order for order in await world.orders()}
    assert (await world.audit(*acknowledged)).clean
    for order in orders.values():
        assert (
            world.gateway.state_of(order)
            in {
                OrderState.PAID: {PaymentState.CHARGED},
                DECLINED: {PaymentState.DECLINED},
                CANCELLED: {PaymentState.VOIDED, PaymentState.REFUNDED},
            }[order.state]
        )
        changes = await world.store.changes(order.id, after_version=0)
        assert [change.version for change in changes] == list(range(1, order.version + 1))
        for before, after in pairwise(changes):
            assert after.state in TRANSITIONS[before.state]
        assert order.at(changes[-1]) == order
    for told in acknowledged:
        (change,) = [
            change
            for change in await world.store.changes(told.id, after_version=told.version - 1)
            if change.version == told.version
        ]
        assert orders[told.id].at(change) == told
    assert tasks_left() == set()


# --- each point fails once -------------------------------------------------------------


class FailOnce:
    """Fails the point with this number; None: only counts them."""

    def __init__(self, at: int | None, *, deadly: bool) -> None:
        self._at = at
        self._deadly = deadly
        self._dead = False
        self.points: list[Point] = []

    async def __call__(self, point: Point) -> None:
        if self._dead:
            raise Died
        self.points.append(point)
        if len(self.points) - 1 == self._at:
            self._dead = self._deadly
            raise Died if self._deadly else failure_at(point)


class Caller:
    """Calls one process and keeps what it was told."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.told: list[Order] = []

    async def place(self) -> None:
        self.told.append(await self._process.place())

    async def cancel(self) -> None:
        if self.told:
            self.told.append(await self._process.cancel(self.told[0].id))


@dataclass(frozen=True)
class Story:
    """What callers do, one after the other, and the gateway's part in it."""

    name: str
    steps: tuple[Callable[[Caller], Awaitable[None]], ...]
    troubles: tuple[Trouble, ...] = ()
    decline_reason: str = ""

    @property
    def cancels(self) -> bool:
        return Caller.cancel in self.steps

    async def run(self, world: World, fail: FailOnce) -> Caller:
        """Runs to its end, or until the process dies; callers go on after an error."""
        world.gateway.decline_reason = self.decline_reason
        world.gateway.next(*self.troubles)
        process = Process(world, pass_=fail)
        caller = Caller(process)
        for step in self.steps:
            try:
                await step(caller)
            except (OrderError, Died):
                continue
        await process.settlement.drain(timeout_s=LONG_S)
        return caller


PLACE, CANCEL = Caller.place, Caller.cancel
STORIES = [
    Story("place", (PLACE,)),
    Story("place, declined", (PLACE,), decline_reason="no funds"),
    Story("place, the answer is lost", (PLACE,), (Trouble.ANSWER_LOST,)),
    Story("place, and again", (PLACE, PLACE)),
    Story("place, the gateway is away, and again", (PLACE, PLACE), (Trouble.UNREACHABLE,)),
    Story("place and cancel", (PLACE, CANCEL)),
    Story("place and cancel twice", (PLACE, CANCEL, CANCEL)),
    Story("cancel what was never charged", (PLACE, CANCEL), (Trouble.UNREACHABLE,)),
    Story("cancel what nobody knows was charged", (PLACE, CANCEL), (Trouble.ANSWER_LOST,)),
    Story(
        "cancel what nobody knows was declined",
        (PLACE, CANCEL),
        (Trouble.ANSWER_LOST,),
        decline_reason="no funds",
    ),
    Story(
        "cancel, the refund's answer is lost, and again",
        (PLACE, CANCEL, CANCEL),
        (Trouble.NONE, Trouble.ANSWER_LOST),
    ),
]


@pytest.mark.parametrize("deadly", [False, True], ids=["an error", "a death"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_wherever_it_fails_once_it_ends_well(story: Story, deadly: bool) -> None:
    counting = FailOnce(None, deadly=deadly)
    await story.run(World(), counting)

    for number, point in enumerate(counting.points):
        world, fail = World(), FailOnce(number, deadly=deadly)
        caller = await story.run(world, fail)
        assert fail.points[number].method == point.method, "a story is the same each time"

        await world.recover()
        await assert_all_is_well(world, caller.told)

        # Whoever was told nothing asks again, and it is the same order.
        again = Caller(Process(world))
        await again.place()
        assert {order.id for order in again.told + caller.told} == {again.told[0].id}
        if story.cancels:
            if again.told[0].state is DECLINED:
                with pytest.raises(IllegalTransition):
                    await again.cancel()
            else:
                await again.cancel()
                assert again.told[-1].state is CANCELLED
        await assert_all_is_well(world, again.told)


# --- all at once -----------------------------------------------------------------------


class Gate:
    """Stops every call at each of its points until it is told how to go on."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Point, asyncio.Future[None]]] = []
        self.dead = False

    async def __call__(self, point: Point) -> None:
        if self.dead:
            raise Died
        pass_ = asyncio.get_running_loop().create_future()
        entry = (point, pass_)
        self.waiting.append(entry)
        try:
            await pass_
        finally:
            if entry in self.waiting:
                self.waiting.remove(entry)

    def go(self, index: int, *, fail: bool = False) -> None:
        point, pass_ = self.waiting.pop(index)
        if fail:
            pass_.set_exception(failure_at(point))
        else:
            pass_.set_result(None)

    def die(self) -> None:
        self.dead = True
        while self.waiting:
            _, pass_ = self.waiting.pop()
            pass_.set_exception(Died())


@dataclass(frozen=True)
class Plan:
    """What happens at once.

    Attributes:
        callers: Which of the two processes each asks, what for, and whether it waits. All ask
            about one order.
        seed: Decides who goes next.
        failures, deaths, give_ups: How likely each is at a step, in percent.
    """

    callers: tuple[tuple[int, str, bool], ...]
    declines: bool
    seed: int
    failures: int
    deaths: int
    give_ups: int


plans = st.builds(
    Plan,
    callers=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["place", "cancel", "cancel", "work"]),
            st.booleans(),
        ),
        max_size=5,
    ).map(lambda others: ((0, "place", True), *others)),
    declines=st.sampled_from([False, False, False, True]),
    seed=st.integers(0, 2**32 - 1),
    failures=st.sampled_from([0, 0, 5, 20]),
    deaths=st.sampled_from([0, 0, 3]),
    give_ups=st.sampled_from([0, 0, 5]),
)


class Bustle:
    """Several callers of two processes over one store and one gateway."""

    def __init__(self, plan: Plan) -> None:
        self.world = World()
        self.world.gateway.decline_reason = "no funds" if plan.declines else ""
        self.placed: list[Order] = []
        self.cancelled: list[Order] = []
        self.not_cancellable = False
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._gates = [Gate(), Gate()]
        self._processes = [Process(self.world, pass_=gate) for gate in self._gates]

    async def run(self) -> None:
        callers = self._start(lambda what: what == "place")
        await self._settle_down()
        all_started = False
        while waiting := [gate for gate in self._gates if gate.waiting]:
            if not all_started and await self.world.orders():
                # Only now there is something to cancel.
                callers += self._start(lambda what: what != "place")
                all_started = True
            gate = self._random.choice(waiting)
            if self._chance(self._plan.deaths):
                gate.die()
            elif self._chance(self._plan.give_ups):
                self._random.choice(callers).cancel()
            else:
                index = self._random.randrange(len(gate.waiting))
                gate.go(index, fail=self._chance(self._plan.failures))
            await self._settle_down()
        for caller in callers:
            assert caller.done(), "nobody is left waiting"
            if not caller.cancelled() and not isinstance(caller.exception(), OrderError | Died):
                caller.result()

    def _start(self, which: Callable[[str], bool]) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(self._call(self._processes[process], what, waits))
            for process, what, waits in self._plan.callers
            if which(what)
        ]

    async def _call(self, process: Process, what: str, waits: bool) -> None:
        budget_s = LONG_S if waits else 0.0
        if what == "place":
            self.placed.append(await process.place(budget_s=budget_s))
            return
        (order,) = await self.world.orders()
        if what == "work":
            await process.settlement.settle(order, until=Deadline.after(budget_s))
            return
        try:
            self.cancelled.append(await process.cancel(order.id, budget_s=budget_s))
        except IllegalTransition:
            self.not_cancellable = True

    def _chance(self, percent: int) -> bool:
        return self._random.random() * 100 < percent

    async def _settle_down(self) -> None:
        """Lets every task run until it waits at a gate or has ended."""
        for _ in range(12):
            await asyncio.sleep(0)


async def bustle(plan: Plan) -> None:
    scene = Bustle(plan)
    await scene.run()
    await scene.world.recover()

    await assert_all_is_well(scene.world, scene.placed + scene.cancelled)
    for order in await scene.world.orders():
        assert {told.id for told in scene.placed + scene.cancelled} <= {order.id}
        if scene.cancelled:
            assert order.state is CANCELLED
        if scene.not_cancellable:
            assert order.state is DECLINED
    assert {told.state for told in scene.cancelled} <= {REFUNDING, CANCELLED}


@given(plans)
@settings(max_examples=1000)
def test_whoever_comes_first_it_ends_well(plan: Plan) -> None:
    asyncio.run(bustle(plan))
