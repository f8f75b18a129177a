"""What runs beside the calls."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from orderflow_server.background import background


async def test_it_runs_until_the_block_ends() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async with background({"one": work("one"), "two": work("two")}):
        await asyncio.sleep(0)
        assert ended == []
    assert sorted(ended) == ["one", "two"]


async def test_what_fails_is_told_at_once_and_the_rest_goes_on() -> None:
    going_on = asyncio.Event()

    async def fails() -> None:
        raise ValueError("a mistake")

    async def goes_on() -> None:
        await asyncio.sleep(0)
        going_on.set()

    with capture_logs() as lines:
        async with background({"fails": fails(), "goes on": goes_on()}):
            await going_on.wait()
            await asyncio.sleep(0)
            [line] = lines
    assert (line["event"], line["work"], line["log_level"]) == (
        "background work failed",
        "fails",
        "error",
    )
