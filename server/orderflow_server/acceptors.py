"""Takes in a service's calls, many at once.

grpc.aio takes in one call of a method at a time, and waits anew for all methods in between: five
turns of the event loop, and a fifth of a bare call's instructions. When the turns are long, because
the calls themselves need CPU, calls come faster than that. They then wait in gRPC's own queue, for
seconds, where no limiter sees them, and are served when nobody waits for them any more.

Acceptors are tasks that do nothing but ask gRPC for the next call, and hand it over to what
grpc.aio would have handed it to. Each needs two turns, and there are many, so that all that came
during one turn are taken in after it, and those that are too many are refused.

This is the only place that uses functions which grpc.aio does not promise to keep. The package
therefore asks for one minor version of grpcio, and tests/rpc/test_acceptors.py is what to run, and
to read, before that is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave it out

log = structlog.get_logger("orderflow.acceptors")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Handlers: TypeAlias = "Mapping[str, Handler]"
"""By path: `/package.Service/Method`."""

ACCEPTORS = 32
"""For each method: about as many calls as come during one turn of a busy loop. Each takes 2 kB."""


class Resolver(Protocol):
    """Knows the handlers of the methods; asked for every call, in the call's own task."""

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler: ...


class Acceptors:
    """Acceptors of the methods of one server's services.

    Args:
        server: Not started yet. It has the services too: what it takes in itself passes through
            its interceptors.
        resolver: Makes what knows the handlers from those that were added. A server's interceptors
            are not around calls that were accepted here, unless they are in these handlers. None:
            the handlers as they were added.
    """

    def __init__(
        self, server: grpc.aio.Server, resolver: Callable[[Handlers], Resolver] | None = None
    ) -> None:
        self._server = server
        self._resolver = resolver or _Plain
        self._handlers: dict[str, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """The acceptors and the calls: the event loop itself does not hold them."""

    def add(self, add: Callable[[Any, Any], None], servicer: Any) -> None:
        """Adds a service, to the server too.

        Args:
            add: The generated `add_..._to_server`.
            servicer: What answers.
        """
        add(servicer, self)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """For generated code. A method with a handler needs no generic one as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """For generated code."""
        self._server.add_registered_method_handlers(service, dict(handlers))
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def start(self) -> None:
        """Starts the server, and accepts until it stops.

        Calls inherit the context that this is called in.
        """
        await self._server.start()
        resolver = self._resolver(self._handlers)
        loop = asyncio.get_running_loop()
        for path in self._handlers:
            for _ in range(ACCEPTORS):
                acceptor = loop.create_task(self._accept(path, resolver, loop))
                acceptor.add_done_callback(_tell_of_its_error)
                self._keep(acceptor)

    async def _accept(self, path: str, resolver: Resolver, loop: asyncio.AbstractEventLoop) -> None:
        server: Any = self._server._server  # type: ignore[attr-defined]  # grpc.aio's is a shell
        method = path.encode()
        while True:
            try:
                call = await server._request_registered_call(method)
            except cygrpc._RequestCallError:
                if not server.is_running():
                    return
                continue
            self._keep(
                loop.create_task(
                    cygrpc._schedule_rpc_coro(
                        cygrpc._handle_rpc(path, resolver, (), call, loop, False),
                        call,
                        loop,
                        path,
                    )
                )
            )
            # Not until the next one comes.
            del call

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _tell_of_its_error(acceptor: asyncio.Task[None]) -> None:
    if not acceptor.cancelled() and (error := acceptor.exception()) is not None:
        # grpc.aio's own loop asks in the same way, and stops the server when it fails so.
        log.error("an acceptor failed", exc_info=error)


class _Plain:
    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    def resolve_handler(self, details: grpc.HandlerCallDetails) -> Handler:
        return self._handlers[details.method]
