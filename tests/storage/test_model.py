"""Whatever is written together, SQLite does what the fake does one after the other."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.orders import NOW, new_order
from fakes.store import FakeOrderStore
from orderflow_server.orders.errors import OrderError
from orderflow_server.orders.order import Order, OrderQuery, OrderState
from orderflow_server.orders.ports import OrderStore
from orderflow_server.storage.commands import Command, Defer, LeaseDue, Place, Save
from orderflow_server.storage.store import open_sqlite_store

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
    dataclasses.replace(order, id=new_order(100 + number).id) for number, order in enumerate(ORDERS)
]
ORDER_OF_KINDS = (Place, Save, Defer, LeaseDue)

orders = st.sampled_from(ORDERS)
times = st.integers(0, 9).map(lambda seconds: NOW + timedelta(seconds=seconds))


def changed(
    order: Order, state: OrderState, version: int, reason: str, time: datetime, until: datetime
) -> Save:
    change = dataclasses.replace(
        order, state=state, version=version, decline_reason=reason, update_time=time
    )
    return Save(change, until if state.awaits_gateway else None)


commands = st.one_of(
    st.builds(Place, st.sampled_from(ORDERS + REPLAYS), times),
    st.builds(
        changed,
        orders,
        st.sampled_from(OrderState),
        st.integers(1, 4),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        times,
        times,
    ),
    st.builds(Defer, orders.map(lambda order: order.id), times),
    st.builds(LeaseDue, times, times, st.integers(1, 4)),
)
batches = st.lists(st.lists(commands, min_size=1, max_size=12), min_size=1, max_size=6)


async def outcome(store: OrderStore, command: Command[Any]) -> object:
    """What a command results in, in a form that can be compared."""
    try:
        match command:
            case Place(order, lease_until):
                return await store.place(order, lease_until=lease_until)
            case Save(order, lease_until):
                await store.save(order, lease_until=lease_until)
            case Defer(order_id, until):
                await store.defer(order_id, until=until)
            case LeaseDue(now, lease_until, limit):
                return await store.lease_due(now=now, lease_until=lease_until, limit=limit)
            case _:
                raise AssertionError(command)
    except OrderError as error:
        return type(error), error.args
    return None


async def contents(store: OrderStore) -> list[object]:
    found = await store.list(OrderQuery(limit=100))
    return [(order, await store.changes(order.id, after_version=0)) for order in found]


async def compare(path: Path, script: Sequence[Sequence[Command[Any]]]) -> None:
    fake = FakeOrderStore()
    sizes: list[int] = []
    async with open_sqlite_store(path, on_batch=lambda event: sizes.append(event.size)) as store:
        for batch in script:
            in_turn = sorted(batch, key=lambda command: ORDER_OF_KINDS.index(type(command)))
            together = await asyncio.gather(*(outcome(store, command) for command in in_turn))
            assert together == [await outcome(fake, command) for command in in_turn]
        assert sizes == [len(batch) for batch in script], "each was one transaction"
        assert await contents(store) == await contents(fake)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "empty.db"

    async def create() -> None:
        async with open_sqlite_store(path):
            pass

    asyncio.run(create())
    return path


@given(script=batches)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_batches_do_what_their_commands_do_one_after_the_other(
    empty_database: Path, script: list[list[Command[Any]]]
) -> None:
    with tempfile.TemporaryDirectory(dir=empty_database.parent) as directory:
        path = Path(directory, "orders.db")
        shutil.copy(empty_database, path)
        asyncio.run(compare(path, script))
