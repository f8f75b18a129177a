"""What is wrong with a message is an error that the interceptors see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from rpc.chained import PATH, Seen, call_unary, chain, echo, serving, unary

from harness import until
from orderflow_server.rpc.chain import MalformedRequest

NOT_A_STRING_VALUE = b"\xff\xff"


async def test_a_malformed_request_fails_inside_the_interceptors() -> None:
    seen = Seen()
    handler = unary(echo, StringValue.FromString)
    async with serving(handler, chain(seen)) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await call_unary(channel, NOT_A_STRING_VALUE)
        await until(seen.has_ended)
    assert isinstance(seen.errors[0], MalformedRequest)


async def test_a_malformed_message_in_a_stream_fails_where_the_handler_reads_it() -> None:
    received: list[str] = []

    async def iterating(requests: Any, context: Any) -> bytes:
        async for request in requests:
            received.append(request.value)  # noqa: PERF401  what comes before the bad one counts
        return b""

    async def reading(_requests: Any, context: Any) -> bytes:
        while (request := await context.read()) is not grpc.aio.EOF:
            received.append(request.value)
        return b""

    def in_a_thread(requests: Any, context: Any) -> bytes:
        received.extend(request.value for request in requests)
        return b""

    good = StringValue(value="good").SerializeToString()
    for handle in (iterating, reading, in_a_thread):
        seen = Seen()
        received.clear()
        handler: Any = grpc.stream_unary_rpc_method_handler(handle, StringValue.FromString)
        async with serving(handler, chain(seen)) as channel:
            method: Any = channel.stream_unary(PATH)
            with pytest.raises(grpc.aio.AioRpcError):
                await method(iter([good, NOT_A_STRING_VALUE, good]))
            await until(seen.has_ended)
        assert isinstance(seen.errors[0], MalformedRequest)
        assert received == ["good"]


async def test_a_response_that_is_no_message_fails_inside_the_interceptors() -> None:
    async def nothing(request: Any, context: Any) -> None: ...

    async def stream_of_nothing(request: Any, context: Any) -> AsyncIterator[None]:
        yield

    for arity, handle in (("unary_unary", nothing), ("unary_stream", stream_of_nothing)):
        seen = Seen()
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        handler = make(handle, None, StringValue.SerializeToString)
        async with serving(handler, chain(seen)) as channel:
            call = getattr(channel, arity)(PATH)(b"")
            assert await call.code() is grpc.StatusCode.UNKNOWN
            await until(seen.has_ended)
        assert isinstance(seen.errors[0], TypeError)
        assert seen.codes == [grpc.StatusCode.UNKNOWN]


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, 5])
async def test_a_handler_that_sets_a_status_need_not_return_a_message(code: Any) -> None:
    async def handle(request: Any, context: Any) -> None:
        context.set_code(code)
        context.set_details("not here")

    seen = Seen()
    handler = unary(handle, None, StringValue.SerializeToString)
    async with serving(handler, chain(seen)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="not here"):
            await call_unary(channel)
    assert seen.codes == [grpc.StatusCode.NOT_FOUND]
    assert seen.errors == [None]
