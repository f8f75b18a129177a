"""Acceptors take in what waits, many at once; what they hand over is served as any call.

Endings of every kind are in the conformance suite: `the-whole-chain-accepted`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
from rpc.chained import PATH, SERVICE, unary

from orderflow_server.acceptors import ACCEPTORS, Acceptors

BLOCK = f"/{SERVICE}/Block"
CALLS = 2 * ACCEPTORS
SENT_S = 0.5
"""Within that time a thread has sent its calls, however busy the machine."""

_started_in: ContextVar[str] = ContextVar("started_in", default="nowhere")


@asynccontextmanager
async def accepting(handlers: dict[str, Any], *, stock: bool = False) -> AsyncIterator[str]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    if stock:
        server.add_registered_method_handlers(SERVICE, handlers)
        await server.start()
    else:
        acceptors = Acceptors(server)
        acceptors.add_registered_method_handlers(SERVICE, handlers)
        await acceptors.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def turns_of_a_crowd(*, stock: bool) -> int:
    """How many turns of the event loop it takes to take in calls that came during one long turn."""
    turn = 0
    began: list[int] = []
    sent = threading.Event()

    def count() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count)

    async def handle(request: bytes, _context: Any) -> bytes:
        began.append(turn)
        return request

    async def block(request: bytes, _context: Any) -> bytes:
        assert sent.wait(10.0)
        time.sleep(SENT_S)  # noqa: ASYNC251  # that is what it is about
        loop.call_soon(count)
        return request

    def crowd(target: str) -> None:
        with grpc.insecure_channel(target) as channel:
            grpc.channel_ready_future(channel).result(10.0)
            blocked: Any = channel.unary_unary(BLOCK)
            method: Any = channel.unary_unary(PATH)
            calls = [blocked.future(b"", timeout=20.0)]
            calls += [method.future(b"", timeout=20.0) for _ in range(CALLS)]
            sent.set()
            for call in calls:
                call.result()

    loop = asyncio.get_running_loop()
    async with accepting({"Block": unary(block), "Method": unary(handle)}, stock=stock) as target:
        await asyncio.to_thread(crowd, target)
    assert len(began) == CALLS
    return max(began) - min(began)


async def test_what_came_during_a_long_turn_is_taken_in_within_a_few() -> None:
    # Not to the turn: gRPC's own threads hand the calls over.
    assert await turns_of_a_crowd(stock=False) < CALLS / 2


async def test_grpc_itself_needs_several_turns_for_each() -> None:
    # When this fails the acceptors are of no use any more.
    assert await turns_of_a_crowd(stock=True) > 3 * CALLS


async def test_calls_inherit_the_context_of_the_start() -> None:
    async def where(_request: bytes, _context: Any) -> bytes:
        return _started_in.get().encode()

    _started_in.set("here")
    async with accepting({"Method": unary(where)}) as target:
        _started_in.set("elsewhere")
        async with grpc.aio.insecure_channel(target) as channel:
            method: Any = channel.unary_unary(PATH)
            # The server has asked for one itself.
            assert [await method(b"") for _ in range(ACCEPTORS + 1)] == [b"here"] * (ACCEPTORS + 1)


async def test_nothing_is_left_when_the_server_has_stopped() -> None:
    before = asyncio.all_tasks()

    async def handle(request: bytes, _context: Any) -> bytes:
        return request

    async with accepting({"Method": unary(handle)}) as target:
        async with grpc.aio.insecure_channel(target) as channel:
            method: Any = channel.unary_unary(PATH)
            await asyncio.gather(*(method(b"") for _ in range(CALLS)))
        assert len(asyncio.all_tasks() - before) >= ACCEPTORS
    for _ in range(10):
        await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


async def test_calls_under_way_have_the_grace() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(request: bytes, _context: Any) -> bytes:
        begun.set()
        await go_on.wait()
        return request

    server = grpc.aio.server()
    acceptors = Acceptors(server)
    acceptors.add_registered_method_handlers(SERVICE, {"Method": unary(handle)})
    port = server.add_insecure_port("127.0.0.1:0")
    await acceptors.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary(PATH)
        calls = []
        for _ in range(2):  # Of which one was accepted.
            begun.clear()
            calls.append(asyncio.ensure_future(method(b"kept")))
            await begun.wait()
        stopping = asyncio.create_task(server.stop(10.0))
        await asyncio.sleep(0)
        go_on.set()

        assert await asyncio.gather(*calls) == [b"kept", b"kept"]
        await stopping


@pytest.mark.parametrize("stock", [True, False])
async def test_a_method_that_there_is_not_is_said_to_be_none(stock: bool) -> None:
    async with (
        accepting({}, stock=stock) as target,
        grpc.aio.insecure_channel(target) as channel,
    ):
        ask: Any = channel.unary_unary(PATH)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask(b"")

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
