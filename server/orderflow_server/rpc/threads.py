"""Handlers that are plain functions: run in a thread, awaited in the RPC's own task.

A thread cannot be cancelled. When the call is, the handler's next use of its context raises
CancelledError, which closes a generator, and the call is over when the thread is done with it:
interceptors never finish while the handler still runs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Never, TypeVar

import grpc

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
PlainFunction = Callable[[Any, "ThreadContext"], Any]

_END = object()


class ThreadContext:
    """The call's context for a handler in a thread: what is awaited elsewhere blocks here."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._begun = False
        self._closed = False
        self._pending: concurrent.futures.Future[Any] | None = None

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Never:
        self.wait(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: grpc.Status) -> Never:
        self.wait(self._context.abort_with_status(status))

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self.wait(self._context.send_initial_metadata(initial_metadata))

    def write(self, response: Any) -> None:
        self.wait(self._context.write(response))

    def add_callback(self, callback: Callable[[], None]) -> None:
        self._context.add_done_callback(lambda _context: callback())  # type: ignore[arg-type]  # the stub's type is no protocol

    def __getattr__(self, name: str) -> Any:
        # The rest of the context does not wait for anything.
        return getattr(self._context, name)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs the coroutine in the event loop; for the handler's thread.

        Raises:
            asyncio.CancelledError: The call is over.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise asyncio.CancelledError
            self._pending = future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise asyncio.CancelledError from None

    def begin(self) -> bool:
        """Whether the handler is still wanted, now that there is a thread for it."""
        with self._lock:
            self._begun = not self._closed
            return self._begun

    def close(self) -> bool:
        """Lets nothing wait any more; returns whether the handler has begun."""
        with self._lock:
            self._closed = True
            if self._pending is not None:
                self._pending.cancel()
            return self._begun


def returning(
    function: PlainFunction, *, requests: bool
) -> Callable[[Any, Context], Awaitable[Any]]:
    """As a coroutine function: one that returns what the function returns."""

    async def behavior(request: Any, context: Context) -> Any:
        return await _in_thread(function, request, ThreadContext(context), requests=requests)

    return behavior


def writing(
    function: PlainFunction, *, requests: bool
) -> Callable[[Any, Context], Awaitable[None]]:
    """As a coroutine function: one that sends what the function yields."""

    def write(request: Any, context: ThreadContext) -> None:
        # All in one thread: what a generator opens may be tied to it.
        responses = function(request, context)
        try:
            for response in responses:
                context.write(response)
        finally:
            close = getattr(responses, "close", None)
            if close is not None:
                close()

    return returning(write, requests=requests)


async def _in_thread(
    function: PlainFunction, request: Any, context: ThreadContext, *, requests: bool
) -> Any:
    def work() -> Any:
        if not context.begin():
            return None
        if requests:
            return function(_iterator(request, context), context)
        return function(request, context)

    here = contextvars.copy_context()
    work_done = asyncio.get_running_loop().run_in_executor(None, here.run, work)
    try:
        return await asyncio.shield(work_done)
    except asyncio.CancelledError:
        if not context.close():
            work_done.cancel()
            raise
        await _finished(work_done)
        failure = work_done.exception()
        if isinstance(failure, Exception):
            # Like a coroutine that fails while it is cancelled.
            raise failure from None
        raise


async def _finished(work_done: asyncio.Future[Any]) -> None:
    while not work_done.done():
        try:
            await asyncio.wait([work_done])
        except asyncio.CancelledError:
            # One more: the caller of this is about to raise the first.
            continue


def _iterator(requests: AsyncIterator[Any], context: ThreadContext) -> Iterator[Any]:
    received = aiter(requests)

    async def receive() -> Any:
        return await anext(received, _END)

    while (request := context.wait(receive())) is not _END:
        yield request
