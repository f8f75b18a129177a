"""Health follows the store: breaker, readiness and the health service put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from fakes.orders import LEASE_FOR, new_order, order_id, request_id
from fakes.store import FakeOrderStore
from orderflow_client.resilience.breaker import Breaker, BreakerOpen, BreakerOptions
from orderflow_client.resilience.events import BreakerChanged, BreakerState
from orderflow_server.orders.errors import (
    DeadlineExpired,
    IllegalTransition,
    InvalidValue,
    OrderError,
    OrderNotFound,
    RequestIdReused,
    StoreOverloaded,
    StoreUnavailable,
    VersionConflict,
)
from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.ports import LeasedOrder, OrderStore
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.readiness import Readiness
from orderflow_server.storage.around import AroundOrderStore
from orderflow_server.storage.guarded import guarded_by, store_outcome

ID = order_id(1)
OPTIONS = BreakerOptions(minimum_attempts=4)


class FailingStore(FakeOrderStore):
    """Every call is counted, and fails while there is an `error`."""

    def __init__(self) -> None:
        super().__init__()
        self.error: Exception | None = None
        self.asked = 0
        self.hold: asyncio.Event | None = None

    async def _ask(self) -> None:
        self.asked += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        await self._ask()
        return await super().place(order, lease=lease)

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        await self._ask()
        await super().save(order, lease=lease)

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        await self._ask()
        await super().defer(order_id, delay=delay)

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        await self._ask()
        return await super().lease_due(lease=lease, limit=limit, repeated=repeated)

    async def get(self, order_id: UUID) -> Order:
        await self._ask()
        return await super().get(order_id)

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        await self._ask()
        return await super().list(query)

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        await self._ask()
        return await super().changes(order_id, after_version=after_version)

    async def ping(self) -> None:
        await self._ask()


class SteppedTime:
    """A clock that is moved by the sleeps, each of which lasts until the test lets it end."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._due = asyncio.Event()
        self.sleepers = 0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.sleepers += 1
        due = self._due
        try:
            await due.wait()
        finally:
            self.sleepers -= 1

    async def advance(self, by_s: float) -> None:
        """Ends every sleep, and returns when nothing goes on any more."""
        self.now_s += by_s
        due, self._due = self._due, asyncio.Event()
        due.set()
        await settled()


async def settled() -> None:
    """Lets every task run as far as it comes without more time or help."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass(frozen=True)
class World:
    """As `order_app` puts it together.

    Attributes:
        inner: The store behind the breaker.
        store: The store as all others have it.
        changes: What the breaker went through.
    """

    inner: FailingStore
    store: OrderStore
    breaker: Breaker
    health: HealthService
    time: SteppedTime
    changes: list[BreakerState]

    def serving(self) -> bool:
        return self.health.serving

    async def fail(self, times: int) -> None:
        for _ in range(times):
            with pytest.raises(StoreUnavailable):
                await self.store.get(ID)

    async def go_down(self) -> None:
        self.inner.error = StoreUnavailable("the disk is gone")
        await self.fail(OPTIONS.minimum_attempts)


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    time, inner, changes = SteppedTime(), FailingStore(), list[BreakerState]()
    health = HealthService(["orders"])
    readiness = Readiness(health, sleep=time.sleep)

    def note(event: object) -> None:
        assert isinstance(event, BreakerChanged)
        changes.append(event.new)

    breaker = Breaker(
        "store",
        OPTIONS,
        classify=store_outcome,
        listeners=[note, readiness.on_event],
        random=lambda: 0.5,  # no jitter
        clock=time.clock,
    )
    store = AroundOrderStore(inner, guarded_by(breaker))
    health.serve()
    running = asyncio.create_task(readiness.run(store.ping))
    await settled()
    try:
        yield World(inner, store, breaker, health, time, changes)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_store_that_keeps_failing_makes_the_service_not_serving() -> None:
    async with world() as it:
        it.inner.error = StoreUnavailable("the disk is gone")
        await it.fail(OPTIONS.minimum_attempts - 1)
        assert it.serving()
        await it.fail(1)
        assert not it.serving()
        assert it.changes == [BreakerState.OPEN]


async def test_while_the_store_is_down_every_call_fails_at_once_without_asking_it() -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        asked = it.inner.asked
        store = it.store
        order = new_order()
        for call in (
            lambda: store.place(order, lease=LEASE_FOR),
            lambda: store.save(order),
            lambda: store.defer(ID, delay=timedelta(0)),
            lambda: store.lease_due(lease=LEASE_FOR, limit=1),
            lambda: store.get(ID),
            lambda: store.list(OrderQuery(limit=1)),
            lambda: store.changes(ID, after_version=0),
            store.ping,
        ):
            with pytest.raises(BreakerOpen) as caught:
                await call()
            assert caught.value.retry_after_s == OPTIONS.open_s
        assert it.inner.asked == asked


async def test_a_ping_finds_out_that_the_store_is_back_without_any_call() -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        it.inner.error = None
        # Not before the breaker lets one through.
        await it.time.advance(OPTIONS.open_s - 0.1)
        assert not it.serving()
        await it.time.advance(0.1)
        assert it.serving()
        assert it.changes == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]
        assert it.time.sleepers == 0
        with pytest.raises(OrderNotFound):
            await it.store.get(ID)


async def test_while_the_store_stays_down_the_pings_go_on_and_grow_rarer() -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        asked = it.inner.asked
        # 5 s, then 10, 20, 40: probes at 5, 15, 35 and 75.
        for _ in range(150):
            await it.time.advance(0.5)
            assert not it.serving()
            assert it.time.sleepers == 1
        assert it.inner.asked - asked == 4
        it.inner.error = None
        for _ in range(120):
            await it.time.advance(0.5)
        assert it.serving()


async def test_a_second_outage_is_noticed_like_the_first() -> None:
    async with world() as it:
        for _ in range(2):
            await it.go_down()
            await settled()
            assert not it.serving()
            it.inner.error = None
            await it.time.advance(OPTIONS.open_s)
            assert it.serving()


async def test_while_a_probe_is_under_way_all_others_are_refused() -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        it.inner.error = None
        it.inner.hold = asyncio.Event()
        asked = it.inner.asked
        await it.time.advance(OPTIONS.open_s)
        for _ in range(3):
            with pytest.raises(BreakerOpen):
                await it.store.get(ID)
        assert it.inner.asked == asked + 1
        assert not it.serving()
        it.inner.hold.set()
        await settled()
        assert it.serving()


@pytest.mark.parametrize(
    "answer",
    [
        VersionConflict(ID, 2),
        OrderNotFound(ID),
        RequestIdReused(request_id(1)),
        IllegalTransition(ID, OrderState.PAID, OrderState.PENDING_PAYMENT),
    ],
)
async def test_a_refusal_is_an_answer_and_answers_keep_the_breaker_closed(
    answer: OrderError,
) -> None:
    async with world() as it:
        it.inner.error = answer
        for _ in range(5):
            with pytest.raises(type(answer)):
                await it.store.get(ID)
        # With as many answers as these a few failures are no outage.
        it.inner.error = StoreUnavailable("once")
        await it.fail(4)
        assert it.serving()
        assert it.changes == []


@pytest.mark.parametrize("own_doing", [StoreOverloaded("full"), DeadlineExpired("late")])
async def test_what_this_process_did_itself_counts_neither_way(own_doing: OrderError) -> None:
    async with world() as it:
        it.inner.error = own_doing
        for _ in range(50):
            with pytest.raises(type(own_doing)):
                await it.store.get(ID)
        assert it.serving()
        await it.go_down()
        assert not it.serving()


@pytest.mark.parametrize("own_doing", [StoreOverloaded("full"), DeadlineExpired("late")])
async def test_a_probe_that_says_nothing_leaves_the_next_one_to_find_out(
    own_doing: OrderError,
) -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        it.inner.error = own_doing
        await it.time.advance(OPTIONS.open_s)
        assert not it.serving()
        it.inner.error = None
        await it.time.advance(0.5)
        assert it.serving()


@pytest.mark.parametrize("error", [InvalidValue("a NUL"), RuntimeError("a row that is no order")])
async def test_an_error_of_one_call_is_no_failure_of_the_store(error: Exception) -> None:
    async with world() as it:
        it.inner.error = error
        for _ in range(OPTIONS.minimum_attempts * 2):
            with pytest.raises(type(error)):
                await it.store.get(ID)
        assert it.serving()
        assert it.breaker.state is BreakerState.CLOSED


async def test_a_caller_that_gives_up_counts_neither_way() -> None:
    async with world() as it:
        it.inner.hold = asyncio.Event()
        for _ in range(OPTIONS.minimum_attempts * 2):
            call = asyncio.create_task(it.store.ping())
            await settled()
            call.cancel()
            await asyncio.wait({call})
        assert it.serving()
        assert it.breaker.state is BreakerState.CLOSED


async def test_a_server_that_drains_does_not_serve_again_when_its_store_is_back() -> None:
    async with world() as it:
        await it.go_down()
        await settled()
        it.health.drain()
        it.inner.error = None
        await it.time.advance(OPTIONS.open_s)
        assert it.breaker.state is BreakerState.CLOSED
        assert not it.serving()
