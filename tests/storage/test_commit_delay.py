"""While many calls are under way a batch waits for company; else it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fakes.orders import LEASE_FOR, new_order
from orderflow_client.resilience.deadline import Deadline, within
from orderflow_server.orders.errors import DeadlineExpired
from orderflow_server.orders.order import Order
from orderflow_server.storage.commands import Command, Place
from orderflow_server.storage.dialect import Written
from orderflow_server.storage.engine import EngineOptions, WriteEngine

NEVER_S = 3600.0
"""A delay that a test only comes to the end of when nobody keeps to it."""


class Counting:
    """A database that remembers the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def write(self, batch: Sequence[Command[Any]]) -> Written:
        self.batches.append(len(batch))
        orders = [command.order for command in batch if isinstance(command, Place)]
        return Written(orders, orders)


def place(number: int) -> Place:
    return Place(new_order(number), LEASE_FOR)


def engine_over(
    database: Counting, *, calls: int, delay_s: float, max_batch: int = 256
) -> WriteEngine:
    engine = WriteEngine(
        database.write,
        options=EngineOptions(commit_delay_s=delay_s, commit_siblings=16, max_batch=max_batch),
        calls_under_way=lambda: calls,
    )
    engine.start()
    return engine


async def together(engine: WriteEngine, *numbers: int) -> None:
    await asyncio.gather(*(engine.submit(place(number)) for number in numbers))


async def test_the_first_batch_waits_for_nobody() -> None:
    database = Counting()
    engine = engine_over(database, calls=16, delay_s=NEVER_S)
    assert await engine.submit(place(1)) == new_order(1)
    await engine.close(timeout_s=5)


@pytest.mark.parametrize("calls", [15, 16])
async def test_who_writes_alone_does_not_wait_however_many_read(calls: int) -> None:
    database = Counting()
    engine = engine_over(database, calls=calls, delay_s=NEVER_S)
    for number in range(3):
        await engine.submit(place(number))
    await engine.close(timeout_s=5)
    assert database.batches == [1, 1, 1]


async def test_with_few_calls_no_batch_waits() -> None:
    database = Counting()
    engine = engine_over(database, calls=15, delay_s=NEVER_S)
    await together(engine, 8, 9)
    await together(engine, 1, 2)
    await engine.close(timeout_s=5)
    assert database.batches == [2, 2]


async def test_a_full_batch_does_not_wait() -> None:
    database = Counting()
    engine = engine_over(database, calls=16, delay_s=NEVER_S, max_batch=2)
    await together(engine, 8, 9)
    await together(engine, 1, 2)
    await engine.close(timeout_s=5)
    assert database.batches == [2, 2]


async def test_with_many_calls_what_comes_after_a_batch_shares_the_next() -> None:
    database = Counting()
    engine = engine_over(database, calls=16, delay_s=0.05)
    await together(engine, 8, 9)
    # Each begins when the loop has turned a few times: without a delay each were a batch.
    tasks: list[asyncio.Task[Order]] = []
    for number in (1, 2, 3):
        tasks.append(asyncio.create_task(engine.submit(place(number))))
        for _ in range(5):
            await asyncio.sleep(0)
    assert await asyncio.gather(*tasks) == [new_order(1), new_order(2), new_order(3)]
    await engine.close(timeout_s=5)
    assert database.batches == [2, 3]


async def test_closing_ends_the_wait_and_writes_what_waits() -> None:
    database = Counting()
    engine = engine_over(database, calls=16, delay_s=NEVER_S)
    await together(engine, 8, 9)
    waiting = asyncio.create_task(engine.submit(place(1)))
    await asyncio.sleep(0)
    await engine.close(timeout_s=5)
    assert await waiting == new_order(1)
    assert database.batches == [2, 1]


async def test_a_write_whose_deadline_passes_in_the_wait_is_never_written() -> None:
    database = Counting()
    engine = engine_over(database, calls=16, delay_s=0.05)
    await together(engine, 8, 9)
    with within(Deadline.after(0.01)), pytest.raises(DeadlineExpired):
        await engine.submit(place(1))
    await engine.close(timeout_s=5)
    assert database.batches == [2]


@pytest.mark.parametrize(("option", "value"), [("commit_delay_s", -0.001), ("commit_siblings", 0)])
def test_an_option_out_of_its_range_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        EngineOptions(**{option: value})  # type: ignore[arg-type]  # both kinds of number
