"""A caller who gives up at whatever moment breaks nothing, on the stores that the service runs on.

A call waits a number of times before it is answered. Here it is cancelled at each of them, in two
ways: while it waits, and when what it waited for has been done and it does not know yet. The
store's and the gateway's calls are made to wait before and after they are done, so that there is
a moment between any two steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import pytest

from fakes.clock import FakeClock
from fakes.gateway import Trouble
from fakes.orders import order_id, request_id
from fakes.postgres import TestDatabases
from fakes.process import LONG_S, Process, World
from fakes.steps import Point
from orderflow_server.orders.errors import OrderError
from orderflow_server.orders.order import TRANSITIONS, Order, OrderState
from orderflow_server.orders.ports import PaymentState
from orderflow_server.payments.audit import AuditedOrder, audit
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.engine import EngineOptions
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.postgres import PostgresDialect, PostgresOptions
from orderflow_server.storage.store import EngineOrderStore, open_store

T = TypeVar("T")

CANCELLED = OrderState.CANCELLED
PAYMENT_OF = {
    OrderState.PAID: {PaymentState.CHARGED},
    OrderState.PAYMENT_DECLINED: {PaymentState.DECLINED},
    CANCELLED: {PaymentState.VOIDED, PaymentState.REFUNDED},
}


@asynccontextmanager
async def open_postgres_store(
    databases: TestDatabases, clock: FakeClock
) -> AsyncIterator[EngineOrderStore]:
    async with (
        databases.new() as url,
        open_store(
            PostgresDialect(DatabaseAddress.parse(url), PostgresOptions(now=clock)),
            options=EngineOptions(),
        ) as opened,
    ):
        yield opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "postgres"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[EngineOrderStore]:
    """An empty store of each kind, with one writer."""
    if request.param == "sqlite":
        opening = open_store_for(DatabaseAddress(path=tmp_path / "orders.db"), now=clock)
    else:
        opening = open_postgres_store(request.getfixturevalue("postgres"), clock)
    async with opening as opened:
        yield opened


class Cancelled(Generic[T]):
    """Cancels one of several calls, at one of the times that they wait.

    Args:
        at: At which, from 0 and over all calls. None: at none.
        late: When what it waits for has been done, rather than before.
    """

    def __init__(self, at: int | None, *, late: bool) -> None:
        self._at = at
        self._late = late
        self._waits = 0

    async def during(self, call: Awaitable[T]) -> T:
        """Raises CancelledError where it was cancelled."""
        return await asyncio.create_task(self._run(call), name="rpc")

    async def _run(self, call: Awaitable[T]) -> T:
        return await _Steps(self._step, call)

    def _step(self) -> str:
        cancelled = self._waits == self._at
        self._waits += 1
        return "" if not cancelled else "late" if self._late else "early"


class _Steps(Generic[T]):
    """Awaits a call and asks, each time that it waits, whether it is cancelled there."""

    def __init__(self, step: Callable[[], str], call: Awaitable[T]) -> None:
        self._step = step
        self._call = call

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._call.__await__()
        try:
            waits_for = next(steps)
            while True:
                cancelled = self._step()
                task = asyncio.current_task()
                assert task is not None
                if cancelled == "early":
                    task.cancel()
                try:
                    yield waits_for
                except BaseException as error:  # noqa: BLE001  it is for the call to deal with
                    waits_for = steps.throw(error)
                else:
                    late = cancelled == "late"
                    waits_for = steps.throw(asyncio.CancelledError()) if late else steps.send(None)
        except StopIteration as ended:
            result: T = ended.value
            return result


class Caller:
    """One who asks, of one process, for one order.

    Attributes:
        told: The answers.
    """

    def __init__(self, process: Process, request: int, cancelled: Cancelled[Order]) -> None:
        self._process = process
        self._request = request
        self._cancelled = cancelled
        self._placed: UUID | None = None
        self.told: list[Order] = []

    async def place(self) -> None:
        await self._ask(self._process.place(self._request))

    async def place_in_haste(self) -> None:
        await self._ask(self._process.place(self._request, budget_s=0.0))

    async def cancel(self) -> None:
        if self.told:
            await self._ask(self._process.cancel(self.told[0].id))

    async def _ask(self, call: Awaitable[Order]) -> None:
        self.told.append(await self._cancelled.during(call))


@dataclass(frozen=True)
class Story:
    """What a caller does, one after the other, and the gateway's part in it."""

    name: str
    steps: tuple[Callable[[Caller], Awaitable[None]], ...]
    troubles: tuple[Trouble, ...] = ()
    decline_reason: str = ""

    @property
    def cancels(self) -> bool:
        return Caller.cancel in self.steps


PLACE, IN_HASTE, CANCEL = Caller.place, Caller.place_in_haste, Caller.cancel
STORIES = [
    Story("place", (PLACE,)),
    Story("place, declined", (PLACE,), decline_reason="no funds"),
    Story("place, the answer is lost", (PLACE,), (Trouble.ANSWER_LOST,)),
    Story("place, and again", (PLACE, PLACE)),
    Story("cancel what is paid", (PLACE, CANCEL)),
    Story("cancel what was never charged", (PLACE, CANCEL), (Trouble.UNREACHABLE,)),
    Story("cancel what nobody knows was charged", (PLACE, CANCEL), (Trouble.ANSWER_LOST,)),
    Story("cancel beside a charge that hangs", (IN_HASTE, CANCEL), (Trouble.HANG,)),
    Story("cancel beside a charge whose answer hangs", (IN_HASTE, CANCEL), (Trouble.HANG_ANSWER,)),
    Story(
        "cancel, the refund is lost", (PLACE, CANCEL, CANCEL), (Trouble.NONE, Trouble.ANSWER_LOST)
    ),
]


class Scene:
    """One story after the other in one store, each about an order of its own."""

    def __init__(self, store: EngineOrderStore, clock: FakeClock) -> None:
        self._store = store
        self._clock = clock
        self._numbers = count(1)

    async def play(self, story: Story, *, at: int, late: bool) -> bool:
        """Plays it, cancelled at one wait, and checks what has become of the order.

        Returns:
            Whether it was cancelled; False: the calls do not wait so often.
        """
        number = next(self._numbers)
        world = World(self._store, self._clock)
        world.new_order_id = lambda now: order_id(next(self._numbers), now)
        world.gateway.decline_reason = story.decline_reason
        world.gateway.next(*story.troubles)
        process = Process(world, pass_=wait_a_moment)
        caller = Caller(process, number, Cancelled(at, late=late))
        given_up = False
        for step in story.steps:
            try:
                await step(caller)
            except asyncio.CancelledError:
                given_up = True
            except OrderError:
                continue
        world.gateway.release()
        await process.settlement.drain(timeout_s=LONG_S)
        # By the one writer there is, after whatever it was still writing.
        await self._store.release(order_id(0))

        await world.recover()
        found = [order for order in await world.orders() if order.request_id == request_id(number)]
        assert len(found) == 1 or (found == [] and caller.told == [])
        for order in found:
            await self._check(world, order, caller.told)

        again = Caller(Process(world), number, Cancelled(None, late=False))
        await again.place()
        assert [again.told[0].id] == [order.id for order in found or again.told]
        if story.cancels:
            await again.cancel()
            assert again.told[-1].state is CANCELLED
        await self._check(world, again.told[-1], caller.told + again.told)
        await self._store.mark_published(
            [event.sequence for event in await self._store.unpublished(limit=1000)]
        )
        return given_up

    async def _check(self, world: World, order: Order, told: list[Order]) -> None:
        """The order rests, its payment says the same, and so do its events and what was told."""
        changes = await self._store.changes(order.id, after_version=0)
        assert [change.version for change in changes] == list(range(1, order.version + 1))
        for before, after in pairwise(changes):
            assert after.state in TRANSITIONS[before.state]
        versions = [order.at(change) for change in changes]
        assert versions[-1] == order == await self._store.get(order.id)
        assert all(answer in versions for answer in told)
        events = await self._store.unpublished(limit=1000)
        assert [event.order for event in events if event.order.id == order.id] == versions

        assert world.gateway.state_of(order) in PAYMENT_OF[order.state]
        assert audit(
            acknowledged={str(answer.id) for answer in told},
            orders=[AuditedOrder(str(order.id), order.state, order.total)],
            ledger=world.gateway.ledger.entries(),
        ).clean


async def wait_a_moment(_: Point) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("late", [False, True], ids=["while it waits", "when it is done"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
async def test_wherever_a_call_is_cancelled_it_ends_well(
    store: EngineOrderStore, clock: FakeClock, story: Story, late: bool
) -> None:
    scene = Scene(store, clock)
    at = 0
    while await scene.play(story, at=at, late=late):
        at += 1
    assert at > 2 * len(story.steps), "it waits at each step"
