"""What is awaited elsewhere is counted for the call it is for, and for no other."""

from __future__ import annotations

import asyncio

from orderflow_client.resilience.waiting import Waited, count_in, elsewhere


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_time_elsewhere_adds_up_also_in_the_tasks_of_a_call() -> None:
    clock = Clock()
    waited = Waited()

    async def ask(duration_s: float) -> None:
        with elsewhere(clock=clock):
            clock.now_s += duration_s

    await ask(4.0)
    count_in(waited)
    await ask(1.0)
    clock.now_s += 10.0
    await asyncio.create_task(ask(2.0))
    assert waited.total_s == 3.0


async def test_calls_at_the_same_time_are_counted_apart() -> None:
    async def call(duration_s: float) -> float:
        clock = Clock()
        waited = Waited()
        count_in(waited)
        await asyncio.sleep(0)
        with elsewhere(clock=clock):
            clock.now_s += duration_s
            await asyncio.sleep(0)
        return waited.total_s

    assert await asyncio.gather(call(1.0), call(2.0)) == [1.0, 2.0]  # type: ignore[comparison-overlap]  # the stub says tuple, it is a list
