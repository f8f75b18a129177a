from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from orderflow_client.guarded_stream import GuardedStream, StreamPermit
from orderflow_client.resilience.breaker import Breaker
from orderflow_client.status import outcome_of


class DeafCall:
    """Does not notice that its reader is cancelled, as gRPC's at times does not."""

    def __init__(self) -> None:
        self.being_read = asyncio.Event()
        self.was_cancelled = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """It never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield await self.read()

    async def read(self) -> bytes:
        self.being_read.set()
        await asyncio.Event().wait()
        return b""

    def cancel(self) -> bool:
        self.was_cancelled = True
        return True


async def iterate(stream: GuardedStream) -> None:
    async for _ in stream:
        pass


async def read(stream: GuardedStream) -> None:
    await stream.read()


@pytest.mark.parametrize("reading", [iterate, read])
async def test_ends_with_its_reader(reading: Callable[[GuardedStream], Awaitable[None]]) -> None:
    call = DeafCall()
    permit = StreamPermit(Breaker("b", classify=outcome_of).acquire())
    reader = asyncio.ensure_future(reading(GuardedStream(call, permit)))
    await call.being_read.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert call.was_cancelled


async def test_a_callback_added_to_an_ended_call_is_called_at_once() -> None:
    class Ended(DeafCall):
        def done(self) -> bool:
            return True

    stream = GuardedStream(Ended(), StreamPermit(Breaker("b", classify=outcome_of).acquire()))
    told: list[grpc.aio.Call] = []
    stream.add_done_callback(told.append)
    assert told == [stream]


@pytest.mark.parametrize("reading", [iterate, read])
async def test_ends_when_it_could_not_begin(
    reading: Callable[[GuardedStream], Awaitable[None]],
) -> None:
    class Unsendable(DeafCall):
        async def read(self) -> bytes:
            raise TypeError("metadata are text")

    call = Unsendable()
    permit = StreamPermit(Breaker("b", classify=outcome_of).acquire())
    with pytest.raises(TypeError):
        await reading(GuardedStream(call, permit))
    assert call.was_cancelled
