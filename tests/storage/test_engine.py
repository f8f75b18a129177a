"""What the engine promises, over a database that the test plays itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from fakes.orders import LEASE_FOR, new_order
from harness import until
from orderflow_client.resilience.deadline import Deadline, within
from orderflow_server.orders.errors import (
    DeadlineExpired,
    InvalidValue,
    RequestIdReused,
    StoreOverloaded,
    StoreUnavailable,
)
from orderflow_server.orders.order import Order
from orderflow_server.storage.commands import Command, Place
from orderflow_server.storage.dialect import PoisonedBatch, Written
from orderflow_server.storage.engine import (
    BatchEnded,
    CommandFailed,
    EngineOptions,
    WriteEngine,
)


def place(number: int) -> Place:
    return Place(new_order(number), LEASE_FOR)


class PlayedDatabase:
    """Writes a batch when the gate is open; `answer` may be replaced to fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Semaphore(0)
        self.answer: Callable[[Sequence[Place]], Written] = self.write_all

    async def write(self, batch: Sequence[Command[Any]]) -> Written:
        places = [command for command in batch if isinstance(command, Place)]
        self.batches.append([number_of(command) for command in places])
        self.begun.release()
        await self.gate.wait()
        return self.answer(places)

    def write_all(self, batch: Sequence[Place]) -> Written:
        orders = [command.order for command in batch]
        return Written(orders, orders)


def number_of(command: Place) -> int:
    return command.order.id.int & 0xFFFF


class Harness:
    """An engine and what it writes to."""

    def __init__(self, **options: int) -> None:
        self.database = PlayedDatabase()
        self.events: list[BatchEnded] = []
        self.engine = WriteEngine(
            self.database.write, options=EngineOptions(**options), on_batch=self.events.append
        )
        self.engine.start()

    def submit(self, *numbers: int) -> list[asyncio.Task[Order]]:
        return [asyncio.create_task(self.engine.submit(place(number))) for number in numbers]

    async def submit_during_a_batch(self, *numbers: int) -> list[asyncio.Task[Order]]:
        """Submits while a batch of number 0 is under way, until the gate is opened."""
        self.database.gate.clear()
        self.submit(0)
        await self.database.begun.acquire()
        tasks = self.submit(*numbers)
        await asyncio.sleep(0)
        return tasks


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Harness]]:
    made: list[Harness] = []

    def make_harness(**options: int) -> Harness:
        made.append(Harness(**options))
        return made[-1]

    yield make_harness
    for harness in made:
        harness.database.gate.set()
        await harness.engine.close(timeout_s=5)


Make = Callable[..., Harness]


async def answers(tasks: Sequence[asyncio.Task[Order]]) -> list[Order | BaseException]:
    return await asyncio.gather(*tasks, return_exceptions=True)


# Batches


async def test_what_waits_at_the_same_time_is_one_batch(make: Make) -> None:
    harness = make()
    assert await answers(harness.submit(1, 2, 3)) == [new_order(n) for n in (1, 2, 3)]
    assert harness.database.batches == [[1, 2, 3]]


async def test_what_arrives_during_a_batch_is_the_next(make: Make) -> None:
    harness = make()
    tasks = await harness.submit_during_a_batch(1, 2)
    assert harness.engine.queue_depth == 2
    harness.database.gate.set()
    await answers(tasks)
    assert harness.database.batches == [[0], [1, 2]]
    assert harness.engine.queue_depth == 0


async def test_a_batch_has_its_limit(make: Make) -> None:
    harness = make(max_batch=2)
    await answers(harness.submit(1, 2, 3, 4, 5))
    assert harness.database.batches == [[1, 2], [3, 4], [5]]


async def test_writers_write_batches_at_the_same_time(make: Make) -> None:
    harness = make(writers=2, max_batch=2)
    harness.database.gate.clear()
    tasks = harness.submit(1, 2, 3, 4, 5)
    await harness.database.begun.acquire()
    await harness.database.begun.acquire()
    assert harness.database.batches == [[1, 2], [3, 4]]
    harness.database.gate.set()
    assert await answers(tasks) == [new_order(n) for n in (1, 2, 3, 4, 5)]


async def test_each_caller_gets_its_own_outcome(make: Make) -> None:
    harness = make()
    refusal = RequestIdReused(new_order(2).request_id)
    harness.database.answer = lambda batch: Written([batch[0].order, refusal], [batch[0].order])
    assert await answers(harness.submit(1, 2)) == [new_order(1), refusal]


async def test_listeners_are_told_of_each_batch(make: Make) -> None:
    harness = make()
    tasks = await harness.submit_during_a_batch(1, 2)
    harness.database.gate.set()
    await answers(tasks)
    assert [(event.size, list(event.changed), event.waiting) for event in harness.events] == [
        (1, [new_order(0)], 2),
        (2, [new_order(1), new_order(2)], 0),
    ]
    assert [event.error for event in harness.events] == [None, None]


async def test_listeners_are_told_where_the_commands_of_a_batch_come_from() -> None:
    database = PlayedDatabase()
    database.answer = poisoned_by(3)
    events: list[BatchEnded] = []
    here: ContextVar[str | None] = ContextVar("here", default=None)
    engine = WriteEngine(
        database.write, options=EngineOptions(), on_batch=events.append, origin=here.get
    )
    engine.start()

    async def submit(number: int, origin: str | None) -> Order:
        here.set(origin)
        return await engine.submit(place(number))

    await asyncio.gather(submit(1, "a"), submit(2, None), submit(4, "b"))
    await asyncio.gather(submit(3, "c"), submit(5, "d"), return_exceptions=True)
    await engine.close(timeout_s=5)
    assert [list(event.origins) for event in events] == [["a", "b"], ["c", "d"], ["c"], ["d"]]


async def test_listeners_are_told_when_a_batch_began_and_how_long_it_took(make: Make) -> None:
    harness = make()
    before_s = time.monotonic()
    await harness.submit_during_a_batch()
    under_way_s = time.monotonic()
    harness.database.gate.set()
    await until(lambda: harness.events)
    [event] = harness.events
    assert before_s <= event.began_s <= under_way_s
    assert under_way_s <= event.began_s + event.duration_s <= time.monotonic()


async def test_a_listener_that_fails_stops_nothing() -> None:
    database = PlayedDatabase()
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def listener(event: BatchEnded) -> None:
        raise LookupError(event.size)

    engine = WriteEngine(database.write, options=EngineOptions(), on_batch=listener)
    engine.start()
    assert await engine.submit(place(1)) == new_order(1)
    assert await engine.submit(place(2)) == new_order(2)
    await engine.close(timeout_s=5)
    assert [type(context["exception"]) for context in reported] == [LookupError, LookupError]


# Cancellation and deadlines


async def test_a_write_cancelled_before_its_batch_never_starts(make: Make) -> None:
    harness = make()
    tasks = await harness.submit_during_a_batch(1, 2)
    tasks[0].cancel()
    harness.database.gate.set()
    cancelled, written = await answers(tasks)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert written == new_order(2)
    assert harness.database.batches == [[0], [2]]


async def test_a_write_cancelled_during_its_batch_is_completed(make: Make) -> None:
    harness = make()
    harness.database.gate.clear()
    tasks = harness.submit(1, 2)
    await harness.database.begun.acquire()
    tasks[0].cancel()
    [cancelled] = await answers(tasks[:1])  # at once: the batch is still under way
    assert isinstance(cancelled, asyncio.CancelledError)
    harness.database.gate.set()
    assert await tasks[1] == new_order(2)
    assert list(harness.events[0].changed) == [new_order(1), new_order(2)]


async def test_a_write_whose_deadline_passed_before_its_batch_never_starts(make: Make) -> None:
    harness = make()
    clock_s = 100.0

    async def submit(number: int, deadline_s: float) -> Order:
        with within(Deadline(deadline_s, clock=lambda: clock_s)):
            return await harness.engine.submit(place(number))

    await harness.submit_during_a_batch()
    tasks = [asyncio.create_task(submit(1, 101.0)), asyncio.create_task(submit(2, 103.0))]
    await asyncio.sleep(0)
    clock_s = 102.0
    harness.database.gate.set()
    expired, written = await answers(tasks)
    assert isinstance(expired, DeadlineExpired)
    assert written == new_order(2)
    assert harness.database.batches == [[0], [2]]


async def test_a_deadline_that_passes_during_the_batch_changes_nothing(make: Make) -> None:
    harness = make()
    harness.database.gate.clear()
    clock_s = 100.0

    async def submit() -> Order:
        with within(Deadline(101.0, clock=lambda: clock_s)):
            return await harness.engine.submit(place(1))

    task = asyncio.create_task(submit())
    await harness.database.begun.acquire()
    clock_s = 102.0
    harness.database.gate.set()
    assert await task == new_order(1)


# Overload


async def test_a_full_queue_refuses_at_once_and_recovers(make: Make) -> None:
    harness = make(max_queue=2)
    tasks = await harness.submit_during_a_batch(1, 2)
    with pytest.raises(StoreOverloaded):
        await harness.engine.submit(place(3))
    harness.database.gate.set()
    assert await answers(tasks) == [new_order(1), new_order(2)]
    assert await harness.engine.submit(place(3)) == new_order(3)
    assert harness.database.batches == [[0], [1, 2], [3]]


@pytest.mark.parametrize("options", [{"max_queue": 0}, {"max_batch": 0}, {"writers": 0}])
def test_options_are_checked_where_they_are_made(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineOptions(**options)


# Failures


def poisoned_by(number: int) -> Callable[[Sequence[Place]], Written]:
    def answer(batch: Sequence[Place]) -> Written:
        if number in map(number_of, batch):
            raise PoisonedBatch(invalid_value=True) from OverflowError("too large")
        orders = [command.order for command in batch]
        return Written(orders, orders)

    return answer


async def test_a_poisoned_command_fails_alone(make: Make) -> None:
    harness = make()
    harness.database.answer = poisoned_by(2)
    first, poisoned, last = await answers(harness.submit(1, 2, 3))
    assert (first, last) == (new_order(1), new_order(3))
    assert isinstance(poisoned, InvalidValue)
    assert isinstance(poisoned.__cause__, OverflowError)
    assert harness.database.batches == [[1, 2, 3], [1], [2], [3]]
    assert await answers(harness.submit(4)) == [new_order(4)]


async def test_a_command_poisoned_by_a_defect_is_not_the_callers_fault(make: Make) -> None:
    harness = make()

    def answer(_: Sequence[Place]) -> Written:
        raise PoisonedBatch from KeyError("a column")

    harness.database.answer = answer
    [failure] = await answers(harness.submit(1))
    assert isinstance(failure, CommandFailed)


async def test_one_by_one_too_what_was_cancelled_meanwhile_never_starts(make: Make) -> None:
    harness = make()
    tasks: list[asyncio.Task[Order]] = []

    def answer(batch: Sequence[Place]) -> Written:
        if len(batch) > 1:
            tasks[2].cancel()
        return poisoned_by(2)(batch)

    harness.database.answer = answer
    harness.database.gate.clear()
    tasks += harness.submit(1, 2, 3)
    await harness.database.begun.acquire()
    harness.database.gate.set()
    first, poisoned, cancelled = await answers(tasks)
    assert first == new_order(1)
    assert isinstance(poisoned, InvalidValue)
    assert isinstance(cancelled, asyncio.CancelledError)


async def test_a_failed_store_fails_the_batch_once_and_the_engine_lives_on(make: Make) -> None:
    harness = make()

    def fail(_: Sequence[Place]) -> Written:
        raise StoreUnavailable("no answer") from OSError("disk")

    harness.database.answer = fail
    failures = await answers(harness.submit(1, 2, 3))
    assert [str(failure) for failure in failures] == ["no answer"] * 3
    for failure in failures:
        assert isinstance(failure, StoreUnavailable)
        assert isinstance(failure.__cause__, OSError)
    assert len({id(failure) for failure in failures}) == 3, "each task has an error of its own"
    assert harness.database.batches == [[1, 2, 3]], "the engine never repeats"
    assert isinstance(harness.events[-1].error, StoreUnavailable)

    harness.database.answer = harness.database.write_all
    assert await harness.engine.submit(place(4)) == new_order(4)


def crash(_: Sequence[Place]) -> Written:
    raise ZeroDivisionError


def lose_an_outcome(batch: Sequence[Place]) -> Written:
    return Written([batch[0].order], [])


@pytest.mark.parametrize("defect", [crash, lose_an_outcome])
async def test_a_defect_fails_the_batch_and_the_engine_lives_on(
    make: Make, defect: Callable[[Sequence[Place]], Written]
) -> None:
    harness = make()
    harness.database.answer = defect
    failure = (await answers(harness.submit(1, 2)))[-1]
    assert isinstance(failure, CommandFailed)
    assert isinstance(failure.__cause__, ZeroDivisionError | ValueError)

    harness.database.answer = harness.database.write_all
    assert await harness.engine.submit(place(3)) == new_order(3)


# Recovery


async def test_batches_grow_again_step_by_step_after_an_outage(make: Make) -> None:
    harness = make(max_batch=100)

    def fail(_: Sequence[Place]) -> Written:
        raise StoreUnavailable("no answer")

    async def sizes(count: int) -> list[int]:
        harness.database.batches.clear()
        await answers(harness.submit(*range(1, count + 1)))
        return [len(batch) for batch in harness.database.batches]

    assert await sizes(250) == [100, 100, 50]
    harness.database.answer = fail
    assert await sizes(150) == [100, 16, 16, 16, 2], "an outage is probed with little"
    harness.database.answer = harness.database.write_all
    assert await sizes(250) == [16, 32, 64, 100, 38]
    assert await sizes(250) == [100, 100, 50]


async def test_batches_do_not_shrink_for_a_poisoned_command(make: Make) -> None:
    harness = make(max_batch=40)
    harness.database.answer = poisoned_by(1)
    await answers(harness.submit(1))
    await answers(harness.submit(*range(2, 42)))
    assert [len(batch) for batch in harness.database.batches] == [1, 40]


# Closing


async def test_closing_writes_all_that_waits_and_refuses_the_rest(make: Make) -> None:
    harness = make(max_batch=2)
    tasks = await harness.submit_during_a_batch(1, 2, 3)
    closing = asyncio.create_task(harness.engine.close(timeout_s=60))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await harness.engine.submit(place(4))
    assert not closing.done()
    harness.database.gate.set()
    await closing
    assert await answers(tasks) == [new_order(n) for n in (1, 2, 3)]
    assert harness.database.batches == [[0], [1, 2], [3]]


async def test_closing_again_does_nothing(make: Make) -> None:
    harness = make()
    await answers(harness.submit(1))
    await asyncio.gather(harness.engine.close(timeout_s=5), harness.engine.close(timeout_s=5))
    await harness.engine.close(timeout_s=5)
    with pytest.raises(StoreUnavailable):
        await harness.engine.submit(place(2))


async def test_what_is_not_written_in_time_fails(make: Make) -> None:
    harness = make()
    harness.database.gate.clear()
    begun = harness.submit(1)
    await harness.database.begun.acquire()
    waiting = harness.submit(2)
    await asyncio.sleep(0)
    await harness.engine.close(timeout_s=0)
    assert [type(answer) for answer in await answers(begun + waiting)] == [StoreUnavailable] * 2
    assert harness.database.batches == [[1]]
