"""Acceptors take in what waits, many at once; what they hand over is served as any call.

Endings of every kind are in the conformance suite: `the-whole-chain-accepted`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
import structlog
from rpc.chained import PATH, SERVICE, unary

from harness import until
from orderflow_server.acceptors import ACCEPTORS, Acceptors, Handlers, Resolver

BLOCK = f"/{SERVICE}/Block"
CALLS = ACCEPTORS
SENT_S = 0.5
"""Within that time a thread has sent its calls, however busy the machine."""

_started_in: ContextVar[str] = ContextVar("started_in", default="nowhere")


class Noting(grpc.aio.ServerInterceptor):
    """Tells of every call that is taken in, by the server or, as its resolver, by acceptors."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._handlers: Handlers = {}

    def over(self, handlers: Handlers) -> Resolver:
        self._handlers = handlers
        return self

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Any:
        self._note(details.method)
        return self._handlers[details.method]

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        self._note(details.method)
        return await continuation(details)


@asynccontextmanager
async def accepting(
    handlers: dict[str, Any], *, stock: bool = False, note: Callable[[str], None] = lambda _: None
) -> AsyncIterator[str]:
    noting = Noting(note)
    server = grpc.aio.server(interceptors=[noting], options=[("grpc.so_reuseport", 0)])
    port = server.add_insecure_port("127.0.0.1:0")
    if stock:
        server.add_registered_method_handlers(SERVICE, handlers)
        await server.start()
    else:
        acceptors = Acceptors(server, noting.over)
        acceptors.add_registered_method_handlers(SERVICE, handlers)
        await acceptors.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def turns_of_a_crowd(*, stock: bool) -> int:
    """In how many turns of the event loop calls are taken in that came during one long turn."""
    turn = 0
    taken_in: list[int] = []
    sent = threading.Event()

    def note(path: str) -> None:
        if path == PATH:
            taken_in.append(turn)

    def count() -> None:
        nonlocal turn
        turn += 1
        loop.call_soon(count)

    async def handle(request: bytes, _context: Any) -> bytes:
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
    handlers = {"Block": unary(block), "Method": unary(handle)}
    async with accepting(handlers, stock=stock, note=note) as target:
        await asyncio.to_thread(crowd, target)
    assert len(taken_in) == CALLS
    return len(set(taken_in))


async def test_what_came_during_a_long_turn_is_taken_in_within_a_few() -> None:
    assert await turns_of_a_crowd(stock=False) < CALLS / 4


async def test_grpc_itself_takes_in_one_at_a_time() -> None:
    # When this fails the acceptors may be of no use any more.
    assert await turns_of_a_crowd(stock=True) > CALLS / 2


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
            await asyncio.gather(*(method(b"") for _ in range(2 * ACCEPTORS)))
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
        await until(lambda: not server._server.is_running())  # type: ignore[attr-defined]
        # Without the grace they would be cancelled by now.
        barely: Any = asyncio.wait(calls, timeout=0.3)
        ended, _ = await barely
        assert not ended
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


async def test_an_acceptor_that_fails_is_told_of() -> None:
    class Refusing:
        """A server in which gRPC takes no requests for calls."""

        _server: Any

        def __init__(self) -> None:
            self._server = self

        def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
            pass

        async def start(self) -> None:
            pass

        async def _request_registered_call(self, _method: bytes) -> None:
            raise RuntimeError("refused")

    refusing: Any = Refusing()
    acceptors = Acceptors(refusing)
    acceptors.add_registered_method_handlers(SERVICE, {"Method": unary(None)})
    with structlog.testing.capture_logs() as logs:
        await acceptors.start()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert [line["event"] for line in logs] == ["an acceptor failed"] * ACCEPTORS
