from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from prometheus_client import CollectorRegistry

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, NOW, new_order
from fakes.store import FakeOrderStore
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ports import Backlog, Waiting
from orderflow_server.telemetry.backlog_metrics import BacklogMetrics

SECOND = timedelta(seconds=1)


class Watched:
    """A backlog as it is exported; each sleep lasts until the test asks for the next round."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.clock = FakeClock()
        self.store = FakeOrderStore(self.clock)
        self.error: Exception | None = None
        self.slept: list[float] = []
        self._resting = asyncio.Semaphore(0)
        self._next = asyncio.Semaphore(0)
        self.metrics = BacklogMetrics(
            self.registry, clock=self.clock.monotonic, interval_s=7.0, sleep=self._sleep
        )

    async def _sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self._resting.release()
        await self._next.acquire()

    async def read(self) -> Backlog:
        if self.error is not None:
            raise self.error
        return await self.store.backlog(events=True)

    async def round(self) -> None:
        """Returns when the store has been asked once more."""
        self._next.release()
        async with asyncio.timeout(5):
            await self._resting.acquire()

    def values(self) -> dict[str, float | None]:
        return {
            f"{what} {state}": self.registry.get_sample_value(name, {"state": state})
            for what, name in (
                ("pending", "orderflow_orders_pending"),
                ("age", "orderflow_orders_pending_age_seconds"),
            )
            for state in ("PENDING_PAYMENT", "REFUNDING")
        }


NOTHING = {
    "pending PENDING_PAYMENT": 0.0,
    "age PENDING_PAYMENT": 0.0,
    "pending REFUNDING": 0.0,
    "age REFUNDING": 0.0,
}


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    it = Watched()
    running = asyncio.create_task(it.metrics.run(it.read))
    await it._resting.acquire()
    try:
        yield it
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})


def test_every_state_is_there_before_the_store_was_asked() -> None:
    it = Watched()
    assert it.values() == NOTHING
    assert it.registry.get_sample_value("orderflow_outbox_waiting") == 0
    assert it.registry.get_sample_value("orderflow_outbox_lag_seconds") == 0


async def test_orders_that_await_the_gateway_are_told_with_the_age_of_the_oldest() -> None:
    async with watched() as it:
        orders = [new_order(number) for number in range(1, 4)]
        for waits_s, order in ((3, orders[2]), (2, orders[1]), (1, orders[0])):
            it.clock.now = NOW - waits_s * SECOND
            await it.store.place(order, lease=LEASE_FOR)
        it.clock.now = NOW
        paid = orders[2].paid(NOW)
        await it.store.save(paid)
        await it.store.save(paid.refunding(NOW), lease=LEASE_FOR)
        it.clock.advance(10 * SECOND)
        assert it.values() == NOTHING
        await it.round()
        assert it.values() == {
            "pending PENDING_PAYMENT": 2,
            "age PENDING_PAYMENT": 12,
            "pending REFUNDING": 1,
            "age REFUNDING": 10,
        }
        assert it.slept == [7.0, 7.0]


async def test_a_parked_order_is_told_apart_from_those_that_are_asked_about() -> None:
    async with watched() as it:
        assert it.registry.get_sample_value("orderflow_orders_parked") == 0
        for number in (1, 2):
            await it.store.place(new_order(number), lease=LEASE_FOR)
        await it.store.park(new_order(1).id, reason="stuck")
        await it.round()
        assert it.registry.get_sample_value("orderflow_orders_parked") == 1
        assert it.values() == NOTHING | {"pending PENDING_PAYMENT": 1}


async def test_refused_events_are_counted_apart_from_those_that_wait() -> None:
    names = ("waiting", "lag_seconds", "refused")

    def outbox() -> list[float | None]:
        return [it.registry.get_sample_value(f"orderflow_outbox_{name}") for name in names]

    async with watched() as it:
        orders = [new_order(number, now=NOW - number * SECOND) for number in (1, 2, 3)]
        for order in orders:
            await it.store.place(order, lease=LEASE_FOR)
        await it.store.save(orders[2].paid(NOW))
        await it.round()
        assert outbox() == [4, 1, 0]
        await it.store.refuse({1: "too large", 3: "too large"})
        await it.round()
        assert outbox() == [1, 2, 2]


async def test_what_is_settled_is_gone_at_the_next_round() -> None:
    async with watched() as it:
        order = await it.store.place(new_order(), lease=LEASE_FOR)
        await it.round()
        assert it.values() == NOTHING | {"pending PENDING_PAYMENT": 1}
        await it.store.save(order.paid(NOW))
        await it.round()
        assert it.values() == NOTHING


async def test_while_the_store_fails_the_numbers_stay_and_the_ages_grow() -> None:
    async with watched() as it:
        order = await it.store.place(new_order(), lease=LEASE_FOR)
        await it.round()
        it.error = StoreUnavailable("the disk is gone")
        with structlog.testing.capture_logs() as lines:
            for _ in range(3):
                it.clock.advance(7 * SECOND)
                await it.round()
        assert it.values() == NOTHING | {"pending PENDING_PAYMENT": 1, "age PENDING_PAYMENT": 21}
        assert [(line["log_level"], line["event"]) for line in lines] == [
            ("warning", "the backlog cannot be read")
        ], "one line, however long it lasts"
        it.error = None
        await it.store.save(order.paid(NOW))
        await it.round()
        assert it.values() == NOTHING


async def test_a_defect_does_not_end_it_either() -> None:
    async with watched() as it:
        it.error = ZeroDivisionError()
        await it.round()
        it.error = None
        await it.store.place(new_order(), lease=LEASE_FOR)
        await it.round()
        assert it.values() == NOTHING | {"pending PENDING_PAYMENT": 1}


async def test_an_order_from_the_future_has_no_negative_age() -> None:
    async with watched() as it:
        await it.store.place(new_order(now=NOW + SECOND), lease=LEASE_FOR)
        await it.round()
        assert it.values() == NOTHING | {"pending PENDING_PAYMENT": 1}


async def test_events_that_wait_to_be_published_are_told_with_the_age_of_the_oldest() -> None:
    registry, clock = CollectorRegistry(), FakeClock()
    asked = asyncio.Event()

    async def read() -> Backlog:
        return Backlog(
            orders={OrderState.REFUNDING: Waiting(1, 0 * SECOND)}, events=Waiting(5, 3 * SECOND)
        )

    async def rest(_: float) -> None:
        asked.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(
        BacklogMetrics(registry, clock=clock.monotonic, sleep=rest).run(read)
    )
    await asked.wait()
    assert registry.get_sample_value("orderflow_outbox_waiting") == 5
    assert registry.get_sample_value("orderflow_outbox_lag_seconds") == 3
    running.cancel()
    await asyncio.wait({running})
