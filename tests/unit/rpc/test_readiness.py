"""Health follows the store's ability to write: probe, breaker and the health service put together.

All times are the event loop's, which pass when nothing else is to be done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest
import structlog
from resilience.virtual_time import in_virtual_time, now_s

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
        self.read_error: Exception | None = None
        self.read_hold: asyncio.Event | None = None

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
        if self.read_hold is not None:
            await self.read_hold.wait()
        if self.read_error is not None:
            raise self.read_error

    async def probe(self) -> None:
        await self._ask()


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
        readiness: Is told of batches that changed orders.
        changes: What the breaker went through.
    """

    inner: FailingStore
    store: OrderStore
    breaker: Breaker
    health: HealthService
    readiness: Readiness
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
    inner, changes = FailingStore(), list[BreakerState]()
    health = HealthService(["orders"])
    readiness = Readiness(health, clock=now_s)

    def note(event: object) -> None:
        assert isinstance(event, BreakerChanged)
        changes.append(event.new)

    breaker = Breaker(
        "store",
        OPTIONS,
        classify=store_outcome,
        listeners=[note, readiness.on_event],
        random=lambda: 0.5,  # no jitter
        clock=now_s,
    )
    store = AroundOrderStore(inner, guarded_by(breaker))

    async def recover() -> None:
        breaker.allow_probe()
        await store.ping()

    health.serve()
    running = asyncio.create_task(readiness.run(probe=inner.probe, recover=recover))
    await settled()
    try:
        yield World(inner, store, breaker, health, readiness, changes)
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def changed_after_s(it: World, serving: bool) -> float:
    """How long it takes until the service says so."""
    begun_s = now_s()
    async with asyncio.timeout(60):
        while it.serving() != serving:
            await asyncio.sleep(0.05)
    return now_s() - begun_s


# The ability to write


@in_virtual_time
async def test_a_store_that_cannot_write_is_not_serving_within_10_s_though_nobody_calls() -> None:
    async with world() as it:
        await asyncio.sleep(30)
        assert it.serving()
        it.inner.error = StoreUnavailable("the disk is full")
        assert 4 <= await changed_after_s(it, serving=False) <= 8
        assert it.breaker.state is BreakerState.CLOSED


@in_virtual_time
async def test_a_store_that_hangs_is_not_serving_within_10_s_and_back_within_5_s() -> None:
    async with world() as it:
        for _ in range(2):
            await asyncio.sleep(30.3)
            it.inner.hold = asyncio.Event()
            assert 4 <= await changed_after_s(it, serving=False) <= 8
            await asyncio.sleep(61.7)
            assert not it.serving()
            held, it.inner.hold = it.inner.hold, None
            held.set()
            assert await changed_after_s(it, serving=True) <= 3


@in_virtual_time
async def test_a_write_that_fails_once_or_takes_long_once_changes_nothing() -> None:
    async with world() as it:
        for trouble in range(10):
            it.inner.error = StoreUnavailable("once") if trouble % 2 else None
            it.inner.hold = None if trouble % 2 else asyncio.Event()
            await asyncio.sleep(3.5)
            assert it.serving()
            if it.inner.hold is not None:
                it.inner.hold.set()
            it.inner.error = it.inner.hold = None
            await asyncio.sleep(6)
            assert it.serving()


@in_virtual_time
async def test_while_orders_are_written_nothing_is_probed() -> None:
    async with world() as it:
        for _ in range(100):
            it.readiness.wrote()
            await asyncio.sleep(0.5)
        assert it.inner.asked == 0
        await asyncio.sleep(10)
        assert 4 <= it.inner.asked <= 6


@in_virtual_time
async def test_an_order_that_is_written_shows_at_once_that_the_store_is_back() -> None:
    async with world() as it:
        it.inner.error = StoreUnavailable("read-only")
        await changed_after_s(it, serving=False)
        it.readiness.wrote()
        assert it.serving()


@in_virtual_time
@pytest.mark.parametrize("own_doing", [StoreOverloaded("full"), DeadlineExpired("late")])
async def test_a_full_queue_is_no_outage_while_orders_are_written(own_doing: OrderError) -> None:
    async with world() as it:
        it.inner.error = own_doing
        for _ in range(30):
            await asyncio.sleep(5)
            it.readiness.wrote()
            assert it.serving()


@in_virtual_time
async def test_the_log_says_since_when_and_why_the_store_does_not_write() -> None:
    async with world() as it:
        with structlog.testing.capture_logs() as lines:
            it.inner.error = StoreUnavailable("the database could not write")
            await changed_after_s(it, serving=False)
            await asyncio.sleep(60)
            it.inner.error = None
            await changed_after_s(it, serving=True)
    first, last = lines
    assert (first["log_level"], first["cause"]) == ("error", "the database could not write")
    assert last["log_level"] == "info"


# The breaker


@in_virtual_time
async def test_a_store_that_keeps_failing_makes_the_service_not_serving() -> None:
    async with world() as it:
        it.inner.error = StoreUnavailable("the disk is gone")
        await it.fail(OPTIONS.minimum_attempts - 1)
        assert it.serving()
        await it.fail(1)
        assert not it.serving()
        assert it.changes == [BreakerState.OPEN]


@in_virtual_time
async def test_while_the_store_is_down_every_call_fails_at_once_without_asking_it() -> None:
    async with world() as it:
        await it.go_down()
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
            store.probe,
        ):
            with pytest.raises(BreakerOpen) as caught:
                await call()
            assert caught.value.retry_after_s == OPTIONS.open_s
        assert it.inner.asked == asked


@in_virtual_time
async def test_calls_succeed_soon_after_the_store_is_back_however_long_it_was_away() -> None:
    for away_s in (1, 8, 100, 1000):
        async with world() as it:
            await it.go_down()
            await asyncio.sleep(away_s)
            assert not it.serving()
            it.inner.error = None
            assert await changed_after_s(it, serving=True) <= 3
            assert it.breaker.state is BreakerState.CLOSED
            with pytest.raises(OrderNotFound):
                await it.store.get(ID)


@in_virtual_time
async def test_a_store_that_writes_and_does_not_read_is_not_serving() -> None:
    async with world() as it:
        await it.go_down()
        it.inner.error, it.inner.read_error = None, StoreUnavailable("no reader gets through")
        await asyncio.sleep(60)
        assert not it.serving()
        it.inner.read_error = None
        assert await changed_after_s(it, serving=True) <= 5


@in_virtual_time
async def test_a_probe_that_hangs_behind_an_open_breaker_holds_up_nothing_for_long() -> None:
    async with world() as it:
        await it.go_down()
        it.inner.error, it.inner.read_hold = None, asyncio.Event()
        await asyncio.sleep(20)
        assert not it.serving()
        it.inner.read_hold = None
        assert await changed_after_s(it, serving=True) <= 5


@in_virtual_time
async def test_a_second_outage_is_noticed_like_the_first() -> None:
    async with world() as it:
        for _ in range(2):
            await it.go_down()
            assert not it.serving()
            it.inner.error = None
            assert await changed_after_s(it, serving=True) <= 3


@in_virtual_time
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


@in_virtual_time
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


@in_virtual_time
@pytest.mark.parametrize("own_doing", [StoreOverloaded("full"), DeadlineExpired("late")])
async def test_a_probe_that_says_nothing_leaves_the_next_one_to_find_out(
    own_doing: OrderError,
) -> None:
    async with world() as it:
        await it.go_down()
        it.inner.error = own_doing
        await asyncio.sleep(20)
        assert not it.serving()
        it.inner.error = None
        assert await changed_after_s(it, serving=True) <= 3


@pytest.mark.parametrize("error", [InvalidValue("a NUL"), RuntimeError("a row that is no order")])
@in_virtual_time
async def test_an_error_of_one_call_is_no_failure_of_the_store(error: Exception) -> None:
    async with world() as it:
        it.inner.error = error
        for _ in range(OPTIONS.minimum_attempts * 2):
            with pytest.raises(type(error)):
                await it.store.get(ID)
        assert it.serving()
        assert it.breaker.state is BreakerState.CLOSED


@in_virtual_time
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


@in_virtual_time
async def test_a_server_that_drains_does_not_serve_again_when_its_store_is_back() -> None:
    async with world() as it:
        await it.go_down()
        it.health.drain()
        it.inner.error = None
        await asyncio.sleep(5)
        assert it.breaker.state is BreakerState.CLOSED
        assert not it.serving()
