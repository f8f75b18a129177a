"""The chain of server interceptors: written once for every kind of handler, built once per method.

An interceptor is a function from a `ServerCall` to an async context manager around the handler.
It does not know whether the handler takes or returns a stream. Only this module does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from orderflow_server.rpc.call import Method, ServerCall

Interceptor = Callable[[ServerCall], AbstractAsyncContextManager[None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]


class MalformedRequest(Exception):
    """The bytes of a request are not a message of its type."""


class ServerChain(grpc.aio.ServerInterceptor):
    """Puts the interceptors around every method of the services in scope.

    Args:
        interceptors: Outermost first.
        services: Full names of the services in scope. The others (health, reflection) are
            left alone: they must answer when everything else is refused.
    """

    def __init__(self, interceptors: Sequence[Interceptor], *, services: Collection[str]) -> None:
        self._interceptors = tuple(interceptors)
        self._services = frozenset(services)
        self._wrapped: dict[str, Handler] = {}
        self._calls: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        path = handler_call_details.method
        wrapped = self._wrapped.get(path)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            # No such method. Not remembered: whoever asks chooses the name.
            return None
        method = Method.parse(path)
        if method.service not in self._services:
            return handler
        self._wrapped[path] = wrapped = self._wrap(method, handler)
        return wrapped

    async def finish(self, *, timeout_s: float) -> None:
        """Waits until no handler runs any more; the server's own stop returns before that."""
        calls = set(self._calls)
        if calls:
            await asyncio.wait(calls, timeout=timeout_s)

    @property
    def calls(self) -> int:
        """How many handlers are running."""
        return len(self._calls)

    def _wrap(self, method: Method, handler: Handler) -> Handler:
        """The same kind of handler, with the interceptors around it."""
        make, behavior = _parts(handler)
        deserializer = _forgiving(handler.request_deserializer)
        if handler.request_streaming:
            raise NotImplementedError(f"{method.path}: no method of ours takes a stream")
        if inspect.isasyncgenfunction(behavior):
            return make(self._around_generator(method, behavior), deserializer, handler)
        if inspect.iscoroutinefunction(behavior):
            return make(self._around_coroutine(method, behavior), deserializer, handler)
        raise NotImplementedError(f"{method.path}: a plain function would run in a thread")

    def _around_coroutine(
        self, method: Method, behavior: Callable[[Any, Context], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def coroutine(request: Any, context: Context) -> Any:
            async with self._entered(method, context):
                return await behavior(_checked(request), context)

        return coroutine

    def _around_generator(
        self, method: Method, behavior: Callable[[Any, Context], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], AsyncIterator[Any]]:
        async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._entered(method, context):
                async for response in behavior(_checked(request), context):
                    yield response

        return generator

    def _entered(self, method: Method, context: Context) -> _Entered:
        return _Entered(self._interceptors, ServerCall(method, context), self._calls)


class _Entered:
    """All interceptors around one call, as one async context manager."""

    def __init__(
        self,
        interceptors: tuple[Interceptor, ...],
        call: ServerCall,
        calls: set[asyncio.Task[Any]],
    ) -> None:
        self._interceptors = interceptors
        self._call = call
        self._calls = calls
        self._task = asyncio.current_task()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> None:
        if self._task is not None:
            self._calls.add(self._task)
        try:
            for interceptor in self._interceptors:
                await self._stack.enter_async_context(interceptor(self._call))
        except BaseException as error:
            # What an inner interceptor raises on entry passes through the outer ones' exits.
            self._forget()
            await self._stack.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._forget()
        await self._stack.__aexit__(kind, error, traceback)

    def _forget(self) -> None:
        if self._task is not None:
            self._calls.discard(self._task)


def _parts(handler: Handler) -> tuple[Callable[..., Handler], Any]:
    """How to make a handler of this arity, and the function it calls."""
    if handler.response_streaming:
        return _unary_stream, handler.unary_stream
    return _unary_unary, handler.unary_unary


def _unary_unary(behavior: Any, deserializer: Any, handler: Handler) -> Handler:
    return grpc.unary_unary_rpc_method_handler(behavior, deserializer, handler.response_serializer)


def _unary_stream(behavior: Any, deserializer: Any, handler: Handler) -> Handler:
    return grpc.unary_stream_rpc_method_handler(behavior, deserializer, handler.response_serializer)


def _forgiving(deserializer: Any) -> Any:
    """Parses a request, or returns what is wrong with it instead of raising.

    What a deserializer raises, grpc.aio answers by itself, with the text of the exception,
    past every interceptor. So the error is carried to where the interceptors see it.
    """

    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            malformed = MalformedRequest("the request's bytes are not a message of its type")
            malformed.__cause__ = error
            return malformed

    return deserialize


def _checked(request: Any) -> Any:
    if type(request) is MalformedRequest:
        raise request
    return request
