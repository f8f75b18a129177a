"""Replicas whose wall clocks are wrong, over one PostgreSQL that measures all time by its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from fakes.orders import new_order
from orderflow_server.orders.order import OrderState
from orderflow_server.orders.ports import LONGEST_LEASE, LeasedOrder
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.store import EngineOrderStore

SHORT = timedelta(seconds=0.2)
WRONG = [timedelta(minutes=10), timedelta(days=1), timedelta(days=-1)]
"""By how much a replica's clock is ahead of the database's."""


@pytest.fixture
async def store(url: str) -> AsyncIterator[EngineOrderStore]:
    """As in production: no clock is given."""
    async with open_store_for(DatabaseAddress.parse(url)) as opened:
        yield opened


async def leased_by_another(store: EngineOrderStore) -> Sequence[LeasedOrder]:
    async with asyncio.timeout(10):
        while not (leased := await store.lease_due(lease=SHORT, limit=10)):
            await asyncio.sleep(0.01)
    return leased


@pytest.mark.parametrize("ahead", WRONG)
async def test_what_a_replica_with_a_wrong_clock_leased_is_anothers_when_the_lease_has_passed(
    store: EngineOrderStore, url: str, ahead: timedelta
) -> None:
    placed, leased = (new_order(n, now=datetime.now(UTC) + ahead) for n in (1, 2))
    async with open_store_for(DatabaseAddress.parse(url)) as dying:
        await dying.place(leased, lease=timedelta(0))
        assert await dying.lease_due(lease=SHORT, limit=10)
        await dying.place(placed, lease=SHORT)
        assert await dying.take_lease("relay", holder="dying", lease=SHORT)
        assert not await store.take_lease("relay", holder="other", lease=SHORT)
    found = [*await leased_by_another(store)]
    if len(found) < 2:
        found += await leased_by_another(store)
    assert {each.order.id for each in found} == {placed.id, leased.id}
    async with asyncio.timeout(10):
        while not await store.take_lease("relay", holder="other", lease=SHORT):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ahead", WRONG)
async def test_the_age_of_an_order_is_what_has_passed_since_it_was_placed(
    store: EngineOrderStore, ahead: timedelta
) -> None:
    await store.place(new_order(now=datetime.now(UTC) + ahead), lease=LONGEST_LEASE)
    waiting = (await store.backlog()).orders[OrderState.PENDING_PAYMENT]
    assert waiting.age is not None
    assert timedelta(0) <= waiting.age < timedelta(minutes=1)
    await asyncio.sleep(0.01)
    later = (await store.backlog()).orders[OrderState.PENDING_PAYMENT]
    assert later.age is not None
    assert later.age >= waiting.age + timedelta(seconds=0.01)


async def test_what_a_release_before_left_under_a_wrong_clock_is_anothers_at_once(
    store: EngineOrderStore, connection: asyncpg.Connection
) -> None:
    order = await store.place(new_order(), lease=LONGEST_LEASE)
    assert await store.take_lease("relay", holder="before", lease=LONGEST_LEASE)
    assert await store.lease_due(lease=SHORT, limit=10) == ()
    day = timedelta(days=1)
    await connection.execute("UPDATE orders SET lease_until = lease_until + $1::interval", day)
    await connection.execute("UPDATE leases SET until = until + $1::interval", day)
    [leased] = await store.lease_due(lease=SHORT, limit=10)
    assert leased.order == order
    assert await store.take_lease("relay", holder="other", lease=SHORT)
