"""A chain around one method, without protobuf, on a real server; what an interceptor sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Operation, ServerChain

SERVICE = "test.Service"
PATH = f"/{SERVICE}/Method"


class Seen:
    """An interceptor that notes what passes through it."""

    def __init__(self) -> None:
        self.codes: list[grpc.StatusCode] = []
        self.errors: list[BaseException | None] = []

    def has_ended(self) -> bool:
        return bool(self.codes)

    async def __call__(self, call: ServerCall, proceed: Operation) -> Any:
        try:
            response = await proceed(call)
        except BaseException as error:
            self.errors.append(error)
            call.settle(error)
            raise
        else:
            self.errors.append(None)
            return response
        finally:
            self.codes.append(call.code)


@asynccontextmanager
async def serving(handler: Any, *interceptors: Any) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=interceptors)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Method": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


def chain(*interceptors: Any, **options: Any) -> ServerChain:
    return ServerChain(interceptors, services=[SERVICE], **options)


async def echo(request: Any, context: Any) -> Any:
    return request


def unary(function: Any, deserializer: Any = None, serializer: Any = None) -> Any:
    return grpc.unary_unary_rpc_method_handler(function, deserializer, serializer)


ECHO = unary(echo)


def call_unary(channel: grpc.aio.Channel, request: bytes = b"", **options: Any) -> Any:
    method: Any = channel.unary_unary(PATH)
    return method(request, **options)
