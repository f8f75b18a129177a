"""The chain: the handlers it makes, the nesting of its interceptors, running a handler again."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, Never

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from rpc.chained import ECHO, PATH, SERVICE, Seen, call_unary, chain, serving, unary

from harness import until
from orderflow_server.rpc.call import UNKNOWN_METHOD, Method, ServerCall
from orderflow_server.rpc.chain import Operation, ServerChain


class Details:
    """What gRPC tells an interceptor of a call."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


async def wrapped(chain: ServerChain, handler: Any, method: str = PATH) -> Any:
    async def continuation(_details: Any) -> Any:
        return handler

    return await chain.intercept_service(continuation, Details(method))


async def a_coroutine(request: Any, context: Any) -> None: ...


async def an_async_generator(request: Any, context: Any) -> AsyncIterator[None]:
    yield


def a_function(request: Any, context: Any) -> None: ...


def a_generator(request: Any, context: Any) -> Iterator[None]:
    yield


@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_handler_keeps_its_arity_and_its_kind(arity: str) -> None:
    streams = arity.endswith("_stream")
    for function in [a_coroutine, an_async_generator if streams else a_coroutine]:
        handler = getattr(grpc, f"{arity}_rpc_method_handler")(function)
        result = await wrapped(chain(), handler)
        assert result.request_streaming == handler.request_streaming
        assert result.response_streaming == handler.response_streaming
        around = getattr(result, arity)
        assert inspect.iscoroutinefunction(around) == inspect.iscoroutinefunction(function)
        assert inspect.isasyncgenfunction(around) == inspect.isasyncgenfunction(function)


@pytest.mark.parametrize("arity", ["unary", "stream"])
async def test_what_runs_in_a_thread_becomes_the_kind_nearest_to_it(arity: str) -> None:
    unary = getattr(grpc, f"{arity}_unary_rpc_method_handler")(a_function)
    stream = getattr(grpc, f"{arity}_stream_rpc_method_handler")(a_generator)
    function = getattr(await wrapped(chain(), unary), f"{arity}_unary")
    generator = getattr(await wrapped(chain(), stream), f"{arity}_stream")
    assert inspect.iscoroutinefunction(function)
    assert inspect.isasyncgenfunction(generator)


async def test_a_method_is_wrapped_once() -> None:
    one = chain()
    first = await wrapped(one, ECHO)
    assert first is not ECHO
    assert await wrapped(one, ECHO) is first


async def test_a_handler_that_is_made_for_one_call_serves_that_call_only() -> None:
    class EachItsOwn(grpc.aio.ServerInterceptor):
        """As the interceptors of other libraries do that tie a handler to a call."""

        def __init__(self) -> None:
            self.calls = 0

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            self.calls += 1
            answer = b"%d" % self.calls

            async def handle(_request: Any, _context: Any) -> bytes:
                return answer

            return unary(handle)

    async with serving(ECHO, chain(), EachItsOwn()) as channel:
        assert [await call_unary(channel) for _ in range(3)] == [b"1", b"2", b"3"]


async def test_nothing_is_kept_of_methods_that_there_are_not_nor_of_other_services() -> None:
    one = chain()
    unknown = await wrapped(one, None, f"/{SERVICE}/Nonsense")
    assert await wrapped(one, None, "/no.Service/Nonsense") is unknown
    assert await wrapped(one, ECHO, "/grpc.health.v1.Health/Check") is ECHO
    assert await wrapped(one, ECHO) is not ECHO
    assert len(one._wrapped) == 1


# --- nesting --------------------------------------------------------------------------


async def test_the_first_interceptor_is_the_outermost() -> None:
    steps: list[str] = []

    def noting(name: str) -> Any:
        async def interceptor(call: ServerCall, proceed: Operation) -> Any:
            steps.append(f"into {name}")
            response = await proceed(call)
            steps.append(f"out of {name}")
            return response

        return interceptor

    async def handle(request: Any, context: Any) -> bytes:
        steps.append("handler")
        return b""

    handler = unary(handle)
    async with serving(handler, chain(noting("a"), noting("b"))) as channel:
        await call_unary(channel)
    assert steps == ["into a", "into b", "handler", "out of b", "out of a"]


async def test_what_an_interceptor_raises_on_the_way_in_is_seen_by_those_around_it() -> None:
    async def refuse(call: ServerCall, _proceed: Operation) -> Never:
        await call.context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")

    outer, inner = Seen(), Seen()
    async with serving(ECHO, chain(outer, refuse, inner)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="no room"):
            await call_unary(channel)
        await until(outer.has_ended)
    assert outer.codes == [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert inner.codes == []


async def test_an_error_that_an_interceptor_replaces_changes_the_status_from_there_on() -> None:
    async def translate(call: ServerCall, proceed: Operation) -> Any:
        try:
            return await proceed(call)
        except KeyError:
            await call.context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")

    async def handle(request: Any, context: Any) -> Never:
        raise KeyError

    outer, inner = Seen(), Seen()
    handler = unary(handle)
    async with serving(handler, chain(outer, translate, inner)) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="no such thing"):
            await call_unary(channel)
        await until(outer.has_ended)
    assert inner.codes == [grpc.StatusCode.UNKNOWN]
    assert outer.codes == [grpc.StatusCode.NOT_FOUND]


async def test_an_interceptor_cannot_keep_an_error_to_itself() -> None:
    async def swallow(call: ServerCall, proceed: Operation) -> None:
        with suppress(KeyError):
            await proceed(call)

    async def handle(request: Any, context: Any) -> Never:
        raise KeyError

    seen = Seen()
    handler = unary(handle)
    async with serving(handler, chain(seen, swallow)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)
        await until(seen.has_ended)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert seen.codes == [grpc.StatusCode.UNKNOWN]


async def test_a_cancelled_stream_leaves_its_interceptors_in_the_task_it_entered_them_in() -> None:
    tasks: list[Any] = []

    async def in_one_task(call: ServerCall, proceed: Operation) -> Any:
        tasks.append(asyncio.current_task())
        try:
            return await proceed(call)
        finally:
            tasks.append(asyncio.current_task())

    async def endless(request: Any, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"." * 100_000
        finally:
            tasks.append(asyncio.current_task())

    async with serving(
        grpc.unary_stream_rpc_method_handler(endless), chain(in_one_task)
    ) as channel:
        call: Any = channel.unary_stream(PATH)
        stream = call(b"")
        await stream.read()
        stream.cancel()
        await until(lambda: len(tasks) == 3)
    assert len(set(tasks)) == 1


# --- running a handler again ----------------------------------------------------------


async def test_an_interceptor_may_run_a_handler_again() -> None:
    failures = [KeyError("the first time")]
    seen = Seen()

    async def twice(call: ServerCall, proceed: Operation) -> Any:
        with suppress(KeyError):
            return await proceed(call)
        return await proceed(call)

    async def handle(request: StringValue, context: Any) -> str:
        for failure in failures:
            failures.clear()
            raise failure
        return request.value

    handler = unary(handle, StringValue.FromString, str.encode)
    async with serving(handler, chain(seen, twice)) as channel:
        request = StringValue(value="once more").SerializeToString()
        assert await call_unary(channel, request) == b"once more"
    assert seen.errors == [None]
    assert seen.codes == [grpc.StatusCode.OK]


# --- methods that there are not -------------------------------------------------------


@pytest.mark.parametrize("path", [f"/{SERVICE}/NoMethod", "/no.Service/Method", "/no.Service/Two"])
@pytest.mark.parametrize("arity", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_a_call_to_what_is_not_there_passes_the_interceptors_without_its_name(
    path: str, arity: str
) -> None:
    methods: list[Method] = []

    async def note(call: ServerCall, proceed: Operation) -> Any:
        methods.append(call.method)
        return await proceed(call)

    seen = Seen()
    async with serving(ECHO, chain(seen, note)) as channel:
        call = getattr(channel, arity)(path)(iter([b""]) if arity.startswith("stream") else b"")
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await (call.read() if arity.endswith("_stream") else call)
        await until(seen.has_ended)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert seen.codes == [grpc.StatusCode.UNIMPLEMENTED]
    assert methods == [UNKNOWN_METHOD]
