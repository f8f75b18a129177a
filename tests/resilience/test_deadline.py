from __future__ import annotations

import asyncio

from resilience.virtual_time import VirtualTime

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline


def test_it_expires_when_its_clock_gets_there() -> None:
    time = VirtualTime()
    limit = Deadline.after(2, clock=time.clock)
    time.now_s += 1.5
    assert limit.remaining_s() == 0.5
    assert not limit.expired
    time.now_s += 0.5
    assert limit.expired


def test_a_reserve_makes_it_earlier() -> None:
    time = VirtualTime()
    assert Deadline.after(2, clock=time.clock).earlier_by(0.5).remaining_s() == 1.5


def test_the_earliest_is_the_one_with_the_least_left() -> None:
    time = VirtualTime()
    sooner, later = Deadline.after(1, clock=time.clock), Deadline.after(2, clock=time.clock)
    assert deadline.earliest(later, None, sooner) is sooner
    assert deadline.earliest(None, None) is None


def test_the_work_under_way_has_the_deadline_of_the_innermost_block() -> None:
    outer, inner = Deadline.after(2), Deadline.after(1)
    with deadline.within(outer):
        with deadline.within(inner):
            assert deadline.current() is inner
        assert deadline.current() is outer
    assert deadline.current() is None
    assert deadline.remaining_s() is None


async def test_it_reaches_the_tasks_started_under_it_and_no_others() -> None:
    async def seen() -> Deadline | None:
        return deadline.current()

    limit = Deadline.after(1)
    with deadline.within(limit):
        inside = asyncio.create_task(seen())
    outside = asyncio.create_task(seen())
    assert await inside is limit
    assert await outside is None
