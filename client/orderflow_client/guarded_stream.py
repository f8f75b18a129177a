"""A stream under a breaker: what it says about the server, and when it says it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from orderflow_client.ended_call import code_of, trailing_metadata_of
from orderflow_client.resilience.breaker import BreakerPermit, Finding, Outcome
from orderflow_client.status import outcome_of_status

PATIENCE_S = 10.0
"""How long a stream may keep the breaker waiting for its first message. A probe that is a
stream may last an hour, and all other calls are refused until it says something."""


class StreamPermit:
    """A breaker's permit, settled by a stream's first message or else by its end.

    When neither comes for `PATIENCE_S` the stream is taken to say nothing.
    """

    __slots__ = ("_patience", "_permit")

    def __init__(self, permit: BreakerPermit) -> None:
        self._permit = permit
        self._patience = asyncio.get_running_loop().call_later(PATIENCE_S, permit.ignored)

    def settle(self, finding: Finding) -> None:
        self._patience.cancel()
        self._permit.settle(finding)

    def message_came(self) -> None:
        self.settle(Outcome.SUCCESS)

    def call_ended(self, call: grpc.aio.Call) -> None:
        self.settle(outcome_of_status(code_of(call), trailing_metadata_of(call)))


class GuardedStream(grpc.aio.UnaryStreamCall[Any, Any], grpc.aio.StreamStreamCall[Any, Any]):
    """A call that is answered with a stream, whose messages its permit is told of.

    In all else it is the call it is made of, but for three repairs, without which a stream that
    nobody waits for goes on until its deadline, or for good (grpcio 1.85):

    - A call with done callbacks (each has one: its channel's) is kept alive by gRPC until it ends.
      This one keeps its callbacks to itself, so that the garbage collector can end a call that
      was left half read, and forgotten.
    - A reader that is cancelled at the moment when the server's metadata arrive leaves its call
      as it is. This one cancels it.
    - A call that fails before it goes out, as with metadata that are no text, never ends. This one
      cancels it when its reader is told.
    """

    def __init__(self, call: Any, permit: StreamPermit) -> None:
        self._call = call
        self._permit = permit
        self._callbacks: list[Callable[[Any], None]] = []
        this = weakref.ref(self)

        def ended(call: grpc.aio.Call) -> None:
            permit.call_ended(call)
            stream = this()
            if stream is not None:
                stream._run_callbacks()  # noqa: SLF001  # its own

        call.add_done_callback(ended)

    def _run_callbacks(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                self._permit.message_came()
                yield message
        except (asyncio.CancelledError, Exception):
            self._call.cancel()  # Does nothing to one that has ended.
            raise

    async def read(self) -> Any:
        try:
            message = await self._call.read()
        except (asyncio.CancelledError, Exception):
            self._call.cancel()  # Does nothing to one that has ended.
            raise
        if message is not grpc.aio.EOF:
            self._permit.message_came()
        return message

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._call.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def write(self, request: Any) -> None:
        await self._call.write(request)

    async def done_writing(self) -> None:
        await self._call.done_writing()

    @property
    def _done_writing_flag(self) -> bool:
        # gRPC's intercepted stream-stream call asks for it on each write.
        return bool(self._call._done_writing_flag)  # noqa: SLF001  # as gRPC's own wrapper does

    def cancel(self) -> bool:
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return bool(self._call.cancelled())

    def done(self) -> bool:
        return bool(self._call.done())

    def time_remaining(self) -> float | None:
        remaining_s: float | None = self._call.time_remaining()
        return remaining_s

    async def initial_metadata(self) -> Any:
        return await self._call.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await self._call.trailing_metadata()

    async def code(self) -> Any:
        return await self._call.code()

    async def details(self) -> Any:
        return await self._call.details()

    async def debug_error_string(self) -> Any:
        return await self._call.debug_error_string()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()
