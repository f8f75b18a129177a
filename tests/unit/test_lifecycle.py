"""The word to stop, before a process serves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from orderflow_server.lifecycle import StoppedEarly, given_up_at


async def test_what_takes_too_long_is_given_up_when_the_word_comes() -> None:
    stop, cleaned = asyncio.Event(), asyncio.Event()
    asyncio.get_running_loop().call_soon(stop.set)

    async def start() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with pytest.raises(StoppedEarly):
        async with given_up_at(stop):
            await start()
    assert cleaned.is_set()


async def test_what_ended_before_the_word_is_left_alone() -> None:
    stop = asyncio.Event()
    async with given_up_at(stop):
        await asyncio.sleep(0)
    stop.set()
    await asyncio.sleep(0)


async def test_a_failure_or_a_timeout_of_its_own_is_not_taken_for_the_word() -> None:
    for error in (ValueError, TimeoutError):
        with pytest.raises(error):
            async with given_up_at(asyncio.Event()):
                raise error


async def test_the_caller_may_be_cancelled_meanwhile() -> None:
    async def start() -> None:
        async with given_up_at(asyncio.Event()):
            await asyncio.Event().wait()

    starting = asyncio.create_task(start())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


@pytest.mark.skipif(sys.platform != "linux", reason="the policies are Linux's")
@pytest.mark.parametrize(("before", "after"), [("OTHER", "BATCH"), ("IDLE", "IDLE")])
def test_threads_finish_their_turns_unless_who_started_the_process_chose(
    before: str, after: str
) -> None:
    # In a process of its own: it holds for all threads that come.
    program = (
        f"import os; os.sched_setscheduler(0, os.SCHED_{before}, os.sched_param(0));"
        "from orderflow_server.lifecycle import let_threads_finish_their_turns as let; let();"
        "print(os.sched_getscheduler(0))"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert int(said.stdout) == getattr(os, f"SCHED_{after}")
