"""The chain of server interceptors: written once for every kind of handler, built once per method.

An interceptor is a function from a `ServerCall` to an async context manager around the handler.
It does not know whether the handler takes or returns a stream, nor how it is written.

Everything that can fail happens inside the interceptors, in the RPC's own task: parsing the
request, the handler, serializing or sending what it returns, and closing a generator that the
caller abandoned. gRPC itself would do all but the handler outside: with the text of any error
on the wire, and the generator closed by another task, in another context, some time later. The
price: what is put around the chain sees the bytes of single messages, and of a stream, which
is sent already, nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from orderflow_server.rpc.call import Method, ServerCall, status_set
from orderflow_server.rpc.kinds import Context, Handler, behavior_of, rebuilt

Interceptor = Callable[[ServerCall], AbstractAsyncContextManager[None]]
Operation = Callable[[], Awaitable[Any]]
Execute = Callable[[ServerCall, Operation], Awaitable[Any]]
"""Runs an operation for a call and returns its result."""


class MalformedRequest(Exception):
    """The bytes of a request are not a message of its type."""


class ServerChain(grpc.aio.ServerInterceptor):
    """Puts the interceptors around every method of the services in scope.

    Args:
        interceptors: Outermost first.
        services: Full names of the services in scope. The others (health, reflection) are
            left alone: they must answer when everything else is refused.
        execute: Runs the handlers that take one message and return one, inside all interceptors;
            it may run them again. None runs them once.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        *,
        services: Collection[str],
        execute: Execute | None = None,
    ) -> None:
        self._around = _nested(interceptors)
        self._services = frozenset(services)
        self._execute = execute
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._calls: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        # Asked for every call: an interceptor further in may make a handler of its own for each.
        handler = await continuation(handler_call_details)
        if handler is None:
            # No such method. Not remembered: whoever asks chooses the name.
            return None
        path = handler_call_details.method
        known = self._wrapped.get(path)
        if known is not None and known[0] is handler:
            return known[1]
        method = Method.parse(path)
        if method.service not in self._services:
            return handler
        wrapped = self._wrap(method, handler)
        self._wrapped[path] = handler, wrapped
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
        """A handler of the same kind, with the interceptors around it."""
        operate = self._operation(handler)

        async def behavior(request: Any, context: Context) -> Any:
            call = ServerCall(method, context)
            # The RPC's own; there is always one.
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._calls.add(task)
            try:
                return await self._around(call, partial(operate, request, call))
            finally:
                self._calls.discard(task)

        return rebuilt(
            handler,
            behavior,
            # A stream's messages are parsed and serialized where the handler reads and writes them.
            deserializer=_parser(handler) if handler.request_streaming else None,
            serializer=handler.response_serializer if handler.response_streaming else None,
        )

    def _operation(self, handler: Handler) -> Callable[[Any, ServerCall], Awaitable[Any]]:
        """All that the interceptors are put around."""
        handle = behavior_of(handler)
        parse = _as_it_is if handler.request_streaming else _parser(handler)
        execute: Execute = _once
        serialize: Callable[[Any], Any] = _as_it_is
        if not handler.response_streaming:
            serialize = handler.response_serializer or _as_it_is
            if not handler.request_streaming and self._execute is not None:
                execute = self._execute

        async def operate(request: Any, call: ServerCall) -> Any:
            context = call.context
            response = await execute(call, partial(handle, parse(request), context))
            # Without OK gRPC sends no message, and the handler need not have returned one.
            return b"" if status_set(context) else serialize(response)

        return operate


def _nested(interceptors: Sequence[Interceptor]) -> Execute:
    """Each interceptor around the ones after it; inside them all, the operation."""
    around: Execute = _innermost
    for interceptor in reversed(interceptors):
        around = _layer(interceptor, around)
    return around


def _layer(interceptor: Interceptor, inner: Execute) -> Execute:
    async def around(call: ServerCall, operation: Operation) -> Any:
        try:
            async with interceptor(call):
                return await inner(call, operation)
        except BaseException as error:
            call.settle(error)
            raise
        raise RuntimeError(f"{interceptor} kept an error to itself; it may only replace it")

    return around


async def _innermost(call: ServerCall, operation: Operation) -> Any:
    try:
        response = await operation()
    except (grpc.aio.AbortError, grpc.aio.UsageError) as error:
        call.settle(error)
        raise
    except grpc.aio.BaseError as error:
        # The call ended while the handler was sending, and gRPC found that before it came to
        # cancel the handler.
        gone = asyncio.CancelledError("the caller has gone")
        call.settle(gone)
        raise gone from error
    except asyncio.CancelledError as error:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        if task.cancelling():
            call.settle(error)
            raise
        # Not this call was cancelled, but something that it waited for. gRPC would take it for the
        # call's end and send no status, and the caller would wait until its deadline.
        stray = RuntimeError("what the handler waited for was cancelled")
        call.settle(stray)
        raise stray from error
    except BaseException as error:
        call.settle(error)
        raise
    call.settle(None)
    return response


async def _once(_call: ServerCall, operation: Operation) -> Any:
    return await operation()


def _as_it_is(message: Any) -> Any:
    return message


def _parser(handler: Handler) -> Callable[[bytes], Any]:
    deserialize = handler.request_deserializer or _as_it_is

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            raise MalformedRequest("the request's bytes are not a message of its type") from error

    return parse
