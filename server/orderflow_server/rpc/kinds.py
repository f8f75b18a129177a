"""The kinds of handler that grpc.aio takes, each as one coroutine, and back.

By what the handler returns, a message or a stream, grpc.aio accepts

| kind                                    | message | stream | wrapped, it is                  |
|-----------------------------------------|---------|--------|---------------------------------|
| coroutine function                      | yes     |        | the same                        |
| coroutine function that writes          |         | yes    | the same                        |
| async generator function                |         | yes    | the same                        |
| plain function, run in a thread         | yes     |        | a coroutine function            |
| plain generator function, in a thread   |         | yes    | an async generator function     |

The kind matters: gRPC itself and the interceptors of other libraries look at it. The last two are
given the nearest kind that runs in the event loop. As they are, nothing can be put around them
in the RPC's own task, and a caller that abandons a plain generator takes a thread of gRPC's
pool with it for good.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from orderflow_server.rpc import threads

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behavior = Callable[[Any, Context], Awaitable[Any]]
"""A handler as a coroutine function. One that answers with a stream writes it, and returns None."""


@dataclass(frozen=True, slots=True)
class Arity:
    """How many messages a method takes and returns.

    Attributes:
        name: As the attribute of the handler that holds its function.
        make: gRPC's function that makes such a handler.
    """

    name: str
    make: Callable[..., Handler]


_NOTHING: tuple[Any, ...] = ()

_ARITIES: Mapping[tuple[bool, bool], Arity] = {
    (False, False): Arity("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): Arity("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): Arity("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): Arity("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def behavior_of(handler: Handler) -> Behavior:
    """The handler's function, whatever its kind, as a coroutine function."""
    function = _function(handler)
    if inspect.iscoroutinefunction(function):
        return function
    if not handler.response_streaming:
        return threads.returning(function, requests=handler.request_streaming)
    if inspect.isasyncgenfunction(function):
        return _writing(function)
    return threads.writing(function, requests=handler.request_streaming)


def rebuilt(
    handler: Handler, behavior: Behavior, *, deserializer: Any = None, serializer: Any = None
) -> Handler:
    """A handler of the same arity and kind that calls `behavior`."""
    function: Any = behavior
    if handler.response_streaming and not inspect.iscoroutinefunction(_function(handler)):
        function = _generator(behavior)
    return _arity(handler).make(function, deserializer, serializer)


def _arity(handler: Handler) -> Arity:
    return _ARITIES[bool(handler.request_streaming), bool(handler.response_streaming)]


def _function(handler: Handler) -> Callable[..., Any]:
    function: Callable[..., Any] = getattr(handler, _arity(handler).name)
    return function


def _writing(generate: Callable[[Any, Context], AsyncIterator[Any]]) -> Behavior:
    """Sends what the generator yields.

    gRPC would do it after taking a message out of the generator. A call that ends then is news
    that the suspended generator does not get: it is closed when it is garbage.
    """

    async def write(request: Any, context: Context) -> None:
        async with aclosing(generate(request, context)) as responses:  # type: ignore[type-var]  # the stubs of gRPC say iterator
            async for response in responses:
                await context.write(response)

    return write


def _generator(write: Behavior) -> Callable[[Any, Context], AsyncIterator[Any]]:
    """What writes for itself, in the shape of a generator."""

    async def generator(request: Any, context: Context) -> AsyncIterator[Any]:
        await write(request, context)
        for response in _NOTHING:  # a generator by its shape only
            yield response

    return generator
