"""Whatever is written together, each database does what the fake does one after the other."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from fakes.clock import FakeClock
from fakes.orders import NOW, new_order
from fakes.postgres import TestDatabases
from fakes.store import FakeOrderStore
from orderflow_server.orders.errors import OrderError
from orderflow_server.orders.order import Order, OrderQuery, OrderState
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.commands import (
    Command,
    Defer,
    GiveUpLease,
    LeaseDue,
    MarkPublished,
    Park,
    Place,
    Refuse,
    Release,
    RetryRefused,
    Save,
    SkipRefused,
    TakeLease,
)
from orderflow_server.storage.opening import open_store_for, upgrade
from orderflow_server.storage.store import EngineOrderStore

REQUESTS = 3
CONTENTS = ("ada", "bob")
# Two contents for each request id, and for each pair an order id of its own.
ORDERS = [
    new_order(request * len(CONTENTS) + content, request=request, customer_id=customer_id)
    for request in range(REQUESTS)
    for content, customer_id in enumerate(CONTENTS)
]
# Replays bring new ids, so that it shows which of them was stored.
REPLAYS = [
    structs.replace(order, id=new_order(100 + number).id) for number, order in enumerate(ORDERS)
]
Store = EngineOrderStore | FakeOrderStore

orders = st.sampled_from(ORDERS)
names = st.sampled_from(["relay", "sweep"])
holders = st.sampled_from(["a", "b"])
times = st.integers(0, 9).map(lambda seconds: NOW + timedelta(seconds=seconds))
durations = st.integers(0, 9).map(lambda seconds: timedelta(seconds=seconds))
# Now and then the clock is a day ahead, and is set back.
clocks = st.builds(
    lambda time, days: time + timedelta(days=days), times, st.sampled_from([0, 0, 0, 1])
)
Script = list[tuple[datetime, list[Command[Any]]]]
"""Batches, each with the time by the store's clock."""


def changed(
    order: Order, state: OrderState, version: int, reason: str, time: datetime, lease: timedelta
) -> Save:
    change = structs.replace(
        order, state=state, version=version, decline_reason=reason, update_time=time
    )
    return Save(change, lease if state.awaits_gateway else None)


COMMANDS: dict[type[Command[Any]], st.SearchStrategy[Command[Any]]] = {
    Place: st.builds(Place, st.sampled_from(ORDERS + REPLAYS), durations),
    Save: st.builds(
        changed,
        orders,
        st.sampled_from(OrderState),
        st.integers(1, 4),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
        times,
        durations,
    ),
    Defer: st.builds(Defer, orders.map(lambda order: order.id), durations),
    Park: st.builds(Park, orders.map(lambda order: order.id), st.sampled_from(["", "a", "b"])),
    Release: st.builds(Release, orders.map(lambda order: order.id)),
    LeaseDue: st.builds(
        LeaseDue, durations, st.integers(1, 4), st.one_of(st.none(), st.integers(0, 2))
    ),
    TakeLease: st.builds(TakeLease, names, holders, durations),
    GiveUpLease: st.builds(GiveUpLease, names, holders),
    Refuse: st.builds(Refuse, st.dictionaries(st.integers(1, 9), st.just("no"), max_size=4)),
    RetryRefused: st.builds(RetryRefused, st.none() | st.lists(st.integers(1, 9), max_size=4)),
    SkipRefused: st.builds(SkipRefused, st.lists(st.integers(1, 9), max_size=4)),
    MarkPublished: st.builds(MarkPublished, st.lists(st.integers(1, 9), max_size=4)),
}

BY_SEQUENCE = (Refuse, RetryRefused, SkipRefused, MarkPublished)


def batches(*, but: Collection[type[Command[Any]]] = ()) -> st.SearchStrategy[Script]:
    kinds = [strategy for kind, strategy in COMMANDS.items() if kind not in but]
    batch = st.lists(st.one_of(kinds), min_size=1, max_size=12)
    return st.lists(st.tuples(clocks, batch), min_size=1, max_size=6)


DO: dict[type[Command[Any]], Callable[[Store, Any], Awaitable[object]]] = {
    Place: lambda store, c: store.place(c.order, lease=c.lease),
    Save: lambda store, c: store.save(c.order, lease=c.lease),
    Defer: lambda store, c: store.defer(c.order_id, delay=c.delay),
    Park: lambda store, c: store.park(c.order_id, reason=c.reason),
    Release: lambda store, c: store.release(c.order_id),
    LeaseDue: lambda store, c: store.lease_due(lease=c.lease, limit=c.limit, repeated=c.repeated),
    TakeLease: lambda store, c: store.take_lease(c.name, holder=c.holder, lease=c.lease),
    GiveUpLease: lambda store, c: store.give_up_lease(c.name, holder=c.holder),
    Refuse: lambda store, c: store.refuse(c.reasons),
    RetryRefused: lambda store, c: store.retry_refused(c.sequences),
    SkipRefused: lambda store, c: store.skip_refused(c.sequences),
    MarkPublished: lambda store, c: store.mark_published(c.sequences),
}
"""How a store is asked for each kind; in the order in which a batch's kinds are written."""


async def outcome(store: Store, command: Command[Any]) -> object:
    """What a command results in, in a form that can be compared."""
    try:
        return await DO[type(command)](store, command)
    except OrderError as error:
        return type(error), error.args


async def contents(store: Store) -> list[object]:
    found = await store.list(OrderQuery(limit=100))
    unpublished = await store.unpublished(limit=100)
    return [
        [(order, await store.changes(order.id, after_version=0)) for order in found],
        # In one batch, the events of different orders may be in any order.
        sorted((event.order for event in unpublished), key=lambda each: (each.id, each.version)),
        await store.parked(limit=100),
        await store.parked(limit=100, reason="a"),
        await store.refused(limit=100),
        await store.backlog(events=True),
    ]


async def compare(store: Store, sizes: Sequence[int], script: Script, clock: FakeClock) -> None:
    fake = FakeOrderStore(clock)
    for now, batch in script:
        clock.now = now
        in_turn = sorted(batch, key=lambda command: list(DO).index(type(command)))
        together = await asyncio.gather(*(outcome(store, command) for command in in_turn))
        assert together == [await outcome(fake, command) for command in in_turn]
    assert sizes == [len(batch) for _, batch in script], "each was one transaction"
    assert await contents(store) == await contents(fake)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "empty.db"
    asyncio.run(upgrade(DatabaseAddress(path=path)))
    return path


@given(script=batches())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_batches_do_on_sqlite_what_their_commands_do_one_after_the_other(
    empty_database: Path, script: Script
) -> None:
    async def run(path: Path) -> None:
        sizes: list[int] = []
        clock = FakeClock()
        async with open_store_for(
            DatabaseAddress(path=path), on_batch=lambda event: sizes.append(event.size), now=clock
        ) as store:
            await compare(store, sizes, script, clock)

    with tempfile.TemporaryDirectory(dir=empty_database.parent) as directory:
        path = Path(directory, "orders.db")
        shutil.copy(empty_database, path)
        asyncio.run(run(path))


# The numbers of events have gaps there after what was not written: they cannot be told beforehand.
@given(script=batches(but=BY_SEQUENCE))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_batches_do_on_postgresql_what_their_commands_do_one_after_the_other(
    postgres: TestDatabases, script: Script
) -> None:
    async def run() -> None:
        sizes: list[int] = []
        clock = FakeClock()
        async with (
            postgres.new() as url,
            open_store_for(
                DatabaseAddress.parse(url),
                on_batch=lambda event: sizes.append(event.size),
                now=clock,
            ) as store,
        ):
            await compare(store, sizes, script, clock)

    asyncio.run(run())
