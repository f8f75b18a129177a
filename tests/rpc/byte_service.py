"""Four methods, one of each arity, that take bytes and do what these say, on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from orderflow_client.contract import MethodContract
from orderflow_client.resilience.events import Criticality


@dataclass(frozen=True)
class Arity:
    name: str
    request_streaming: bool
    response_streaming: bool

    @property
    def method(self) -> str:
        return f"/bytes.Service/{self.name}"

    def call(self, channel: grpc.aio.Channel, command: bytes, **options: Any) -> Any:
        """Begins a call. A stream of requests is the command, and once more."""
        stub: Any = getattr(
            channel,
            f"{'stream' if self.request_streaming else 'unary'}"
            f"_{'stream' if self.response_streaming else 'unary'}",
        )(self.method)
        return stub(self._requests(command) if self.request_streaming else command, **options)

    async def _requests(self, command: bytes) -> AsyncIterator[bytes]:
        yield command
        yield command

    async def responses(self, call: Any) -> list[bytes]:
        """What the call is answered with."""
        return [each async for each in call] if self.response_streaming else [await call]


ARITIES = (
    Arity("UnaryUnary", False, False),
    Arity("UnaryStream", False, True),
    Arity("StreamUnary", True, False),
    Arity("StreamStream", True, True),
)


def contract(timeout_s: float = 20.0) -> Mapping[str, MethodContract]:
    return {
        arity.method: MethodContract(
            full_name=arity.method,
            timeout_s=timeout_s,
            retry=None,
            hedging=None,
            criticality=Criticality.DEFAULT,
            retryable=False,
            request_streaming=arity.request_streaming,
            response_streaming=arity.response_streaming,
        )
        for arity in ARITIES
    }


class ByteService(grpc.GenericRpcHandler):
    """Commands: `echo` is answered, `fail` fails at once and `hang` says nothing.

    With `late` before it (`late fail`), a stream of responses begins with a message.
    """

    def __init__(self) -> None:
        self.timeouts_s: list[float | None] = []
        self.hanging = asyncio.Event()
        self.hung_up = asyncio.Event()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        name = handler_call_details.method.rpartition("/")[2]
        for arity in ARITIES:
            if arity.name == name:
                handler = self._stream if arity.response_streaming else self._unary
                make = (
                    f"{'stream' if arity.request_streaming else 'unary'}"
                    f"_{'stream' if arity.response_streaming else 'unary'}_rpc_method_handler"
                )
                return getattr(grpc, make)(handler)
        return None

    async def _unary(self, request: Any, context: Any) -> bytes:
        command = await self._begin(request, context)
        await self._obey(command.removeprefix(b"late "), context)
        return command

    async def _stream(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        command = await self._begin(request, context)
        if command.startswith(b"late "):
            yield b"first"
        await self._obey(command.removeprefix(b"late "), context)
        yield command
        yield command

    async def _begin(self, request: Any, context: Any) -> bytes:
        self.timeouts_s.append(context.time_remaining())
        commands = [request] if isinstance(request, bytes) else [each async for each in request]
        if commands != [b"fail"] * len(commands):
            # With a failure right behind them, they sometimes get lost (grpcio 1.85).
            await context.send_initial_metadata((("x-initial", "there"),))
        return commands[0]

    async def _obey(self, command: bytes, context: Any) -> None:
        context.set_trailing_metadata((("x-trailing", "there"),))
        if command == b"fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail")
        if command == b"hang":
            self.hanging.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.hung_up.set()


@asynccontextmanager
async def serving_bytes() -> AsyncIterator[tuple[ByteService, str]]:
    """The service, and the address it is served at until the block ends."""
    # Its own port: else the kernel may give it that of another process's.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service = ByteService()
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield service, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
