"""Handlers that are plain functions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Never

import grpc
import pytest
from rpc.chained import PATH, Seen, call_unary, chain, serving, unary

from harness import until
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Operation

_greeting: ContextVar[str] = ContextVar("greeting", default="nothing")


async def greeted(call: ServerCall, proceed: Operation) -> Any:
    _greeting.set("hello")
    return await proceed(call)


async def test_a_plain_handler_runs_in_a_thread_with_the_interceptors_context_variables() -> None:
    threads: list[threading.Thread] = []

    def generate(request: Any, context: Any) -> Iterator[bytes]:
        for _ in range(3):
            threads.append(threading.current_thread())
            yield _greeting.get().encode()

    async with serving(grpc.unary_stream_rpc_method_handler(generate), chain(greeted)) as channel:
        method: Any = channel.unary_stream(PATH)
        assert [message async for message in method(b"")] == [b"hello"] * 3
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_plain_handler_finds_in_its_context_what_grpc_offers_it() -> None:
    done = threading.Event()

    def handle(request: Any, context: Any) -> bytes:
        context.send_initial_metadata((("initial", "sent"),))
        context.set_trailing_metadata((("trailing", "sent"),))
        context.add_callback(done.set)
        assert context.time_remaining() > 0
        assert context.peer()
        asked: str = dict(context.invocation_metadata())["asked"]
        return asked.encode()

    async with serving(unary(handle), chain()) as channel:
        call = call_unary(channel, metadata=(("asked", "answered"),), timeout=5)
        assert await call == b"answered"
        assert ("initial", "sent") in tuple(await call.initial_metadata())
        assert ("trailing", "sent") in tuple(await call.trailing_metadata())
        await until(done.is_set)


async def test_a_call_is_not_over_before_its_thread_is() -> None:
    waiting, released = threading.Event(), threading.Event()
    seen = Seen()
    around = chain(seen)

    def handle(request: Any, context: Any) -> bytes:
        waiting.set()
        released.wait(5)
        return b""

    async with serving(unary(handle), around) as channel:
        call = call_unary(channel)
        await until(waiting.is_set)
        call.cancel()
        await around.finish(timeout_s=0.02)
        assert (around.calls, seen.codes) == (1, [])
        released.set()
        await around.finish(timeout_s=5)
    assert (around.calls, seen.codes) == (0, [grpc.StatusCode.CANCELLED])


async def test_a_plain_handler_that_fails_while_it_is_cancelled_has_failed() -> None:
    waiting, released = threading.Event(), threading.Event()
    seen = Seen()
    around = chain(seen)

    def handle(request: Any, context: Any) -> Never:
        waiting.set()
        released.wait(5)
        raise KeyError

    async with serving(unary(handle), around) as channel:
        call = call_unary(channel)
        await until(waiting.is_set)
        call.cancel()
        await around.finish(timeout_s=0.02)
        released.set()
        await until(seen.has_ended)
    assert isinstance(seen.errors[0], KeyError)


async def test_a_plain_handler_whose_turn_comes_after_the_end_of_its_call_does_not_run() -> None:
    busy, released = threading.Barrier(2), threading.Event()
    runs: list[bytes] = []
    around = chain()

    def occupy() -> None:
        busy.wait(5)
        released.wait(5)

    def handle(request: Any, context: Any) -> bytes:
        runs.append(request)
        return b""

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1) as pool:
        loop.set_default_executor(pool)
        occupied = loop.run_in_executor(None, occupy)
        busy.wait(5)
        async with serving(unary(handle), around) as channel:
            call = call_unary(channel, b"too late")
            await until(lambda: around.calls)
            call.cancel()
            await until(lambda: not around.calls)
            released.set()
            await occupied
            assert await call_unary(channel, b"in time") == b""
    assert runs == [b"in time"]


async def limited(call: ServerCall, proceed: Operation) -> Any:
    async with asyncio.timeout(0.05):
        return await proceed(call)


async def test_a_plain_handler_that_cannot_send_is_stopped_when_its_call_is() -> None:
    seen = Seen()
    closed = threading.Event()

    def endless(request: Any, context: Any) -> Iterator[bytes]:
        try:
            while True:
                yield b"." * 100_000
        finally:
            closed.set()

    handler: Any = grpc.unary_stream_rpc_method_handler(endless)
    async with serving(handler, chain(seen, limited)) as channel:
        method: Any = channel.unary_stream(PATH)
        call = method(b"")
        await call.read()
        await until(seen.has_ended)
        assert closed.is_set()
        assert isinstance(seen.errors[0], TimeoutError)


async def test_what_a_plain_handler_yields_after_the_end_of_its_call_is_not_sent() -> None:
    seen = Seen()
    released, closed = threading.Event(), threading.Event()

    def late(request: Any, context: Any) -> Iterator[bytes]:
        try:
            yield b"in time"
            released.wait(5)
            yield b"late"
        finally:
            closed.set()

    async def released_late(call: ServerCall, proceed: Operation) -> Any:
        asyncio.get_running_loop().call_later(0.1, released.set)
        return await proceed(call)

    handler: Any = grpc.unary_stream_rpc_method_handler(late)
    async with serving(handler, chain(seen, released_late, limited)) as channel:
        method: Any = channel.unary_stream(PATH)
        call = method(b"")
        assert await call.read() == b"in time"
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    assert closed.is_set()
