"""The chain of server interceptors: written once for every kind of handler, built once per method.

An interceptor is a function of a `ServerCall` and of all that is within, and awaits it:

    async def interceptor(call: ServerCall, proceed: Operation) -> Any:
        ...
        try:
            return await proceed(call)
        finally:
            ...

It does not know whether the handler takes or returns a stream, nor how it is written. One that has
nothing to do afterwards need not be a coroutine: it returns `proceed(call)`. One that wants to know
with which status an error leaves asks `call.settle(error)`. (Context managers would read as
well, at seven times the cost of a function: 2.3 us for each of a chain that is passed on every
call.)

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
from contextvars import ContextVar
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from orderflow_server.acceptors import Handlers, Resolver
from orderflow_server.rpc.call import UNKNOWN_METHOD, Metadata, Method, ServerCall, status_set
from orderflow_server.rpc.kinds import Context, Handler, behavior_of, rebuilt

Operation = Callable[[ServerCall], Awaitable[Any]]
Interceptor = Callable[[ServerCall, Operation], Awaitable[Any]]
"""Runs an operation for a call, once or more often, and returns its result. It may replace an
error by another, but not keep it to itself."""


_sent: ContextVar[Metadata | None] = ContextVar("orderflow_sent_metadata", default=None)
"""The metadata that came with the call under way, which gRPC has made for whoever is asked for its
handler. To have it made again takes four times as long as to remember it."""


class MalformedRequest(Exception):
    """The bytes of a request are not a message of its type."""


class ServerChain(grpc.aio.ServerInterceptor):
    """Puts the interceptors around every method of the services in scope.

    Args:
        interceptors: Outermost first.
        services: Full names of the services in scope. The others (health, reflection) are
            left alone: they must answer when everything else is refused.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        *,
        services: Collection[str],
    ) -> None:
        self._interceptors = tuple(interceptors)
        self._services = frozenset(services)
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._calls: set[asyncio.Task[Any]] = set()
        # One for all: who asks for what there is not chooses its name. It takes and returns
        # streams, which is how all the other arities look on the wire.
        self._unknown = self._wrap(
            UNKNOWN_METHOD, grpc.stream_stream_rpc_method_handler(_no_such_method)
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        # The handler will run in the same task.
        _sent.set(handler_call_details.invocation_metadata)
        # Asked for every call: an interceptor further in may make a handler of its own for each.
        handler = await continuation(handler_call_details)
        if handler is None:
            return self._unknown
        return self._around(handler_call_details.method, handler)

    def resolver(self, handlers: Handlers) -> Resolver:
        """For acceptors: knows the handlers with the chain around them.

        Calls that they accept do not pass through `intercept_service`.
        """
        return _Resolver({path: self._around(path, each) for path, each in handlers.items()})

    async def finish(self, *, timeout_s: float) -> None:
        """Waits until no handler runs any more; the server's own stop returns before that."""
        calls = set(self._calls)
        if calls:
            await asyncio.wait(calls, timeout=timeout_s)

    @property
    def calls(self) -> int:
        """How many handlers are running."""
        return len(self._calls)

    def _around(self, path: str, handler: Handler) -> Handler:
        known = self._wrapped.get(path)
        if known is not None and known[0] is handler:
            return known[1]
        method = Method.parse(path)
        if method.service not in self._services:
            return handler
        wrapped = self._wrap(method, handler)
        self._wrapped[path] = handler, wrapped
        return wrapped

    def _wrap(self, method: Method, handler: Handler) -> Handler:
        """A handler of the same kind, with the interceptors around it."""
        proceed = _operation(handler)
        for interceptor in reversed(self._interceptors):
            proceed = _around(interceptor, proceed)

        async def behavior(request: Any, context: Context) -> Any:
            call = ServerCall(method, context, request, _sent.get())
            # The RPC's own; there is always one.
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._calls.add(task)
            try:
                response = await proceed(call)
            except grpc.aio.AbortError as error:
                # gRPC's call keeps it, and it keeps the frames that it passed, which know the call:
                # of each refusal a hundred objects would be left to the garbage collector.
                error.__traceback__ = error.__context__ = None
                raise
            else:
                if call.failed:
                    raise RuntimeError("an interceptor kept an error to itself")
                return response
            finally:
                self._calls.discard(task)
                call.error = None
                del call, context, request

        return rebuilt(
            handler,
            behavior,
            # A stream's messages are parsed and serialized where the handler reads and writes them.
            deserializer=_parser(handler) if handler.request_streaming else None,
            serializer=handler.response_serializer if handler.response_streaming else None,
        )


class _Resolver:
    def __init__(self, wrapped: Handlers) -> None:
        self._wrapped = wrapped

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler:
        _sent.set(details.invocation_metadata)
        return self._wrapped[details.method]


def _around(interceptor: Interceptor, inner: Operation) -> Operation:
    return lambda call: interceptor(call, inner)


def _operation(handler: Handler) -> Operation:
    """All that the interceptors are put around."""
    handle = behavior_of(handler)
    parse = _as_it_is if handler.request_streaming else _parser(handler)
    serialize: Callable[[Any], Any] = _as_it_is
    if not handler.response_streaming:
        serialize = handler.response_serializer or _as_it_is

    async def operate(call: ServerCall) -> Any:
        context = call.context
        try:
            response = await handle(parse(call.request), context)
            code = status_set(context)
            # Without OK gRPC sends no message, and the handler need not have returned one.
            response = serialize(response) if code is None else b""
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
            # Not this call was cancelled, but something that it waited for. gRPC would take it for
            # the call's end and send no status, and the caller would wait until its deadline.
            stray = RuntimeError("what the handler waited for was cancelled")
            call.settle(stray)
            raise stray from error
        except BaseException as error:
            call.settle(error)
            raise
        call.returned(code)
        return response

    return operate


async def _no_such_method(_requests: Any, context: Context) -> None:
    # In gRPC's own words.
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


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
