"""A service of one method, which is of the case's kind and ends as the case says. Bytes only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from rpc.conformance.cases import Case, Ending, Kind

SERVICE = "conformance.Conformance"
METHOD = "Method"
PATH = f"/{SERVICE}/{METHOD}"

BARRIER = "/conformance.Barrier/Pass"

REQUEST = b"one"
REQUESTS = [b"one", b"two", b"three"]
LAST = [b"and", b"so on"]
HUGE = b"." * 300_000
"""More than fits between a handler and a caller who does not read."""

PATIENCE_S = 0.3
"""How long a plain handler waits when it is not released: it may be blocking the event loop."""

CODE = grpc.StatusCode.FAILED_PRECONDITION
DETAILS = "as told"
TRAILING = ("told", "so")
CANARY = "canary-postgres://user:secret@host"


@dataclass(frozen=True)
class Status(grpc.Status):
    """What a handler gives to `abort_with_status`."""

    code: grpc.StatusCode = CODE
    details: str = DETAILS
    trailing_metadata: Any = (TRAILING,)


class Unexpected(Exception):
    """A bug of the handler's."""


_owner: ContextVar[str] = ContextVar("owner", default="nobody")


def answer(requests: list[bytes]) -> bytes:
    return b" ".join([b"got", *requests])


@dataclass
class Probe:
    """What became of the handler.

    Attributes:
        waiting: The handler waits for something that never comes.
        released: Lets a plain handler stop waiting.
    """

    case: Case
    begun: int = 0
    cleaned_up: int = 0
    waiting: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Around the handler: what must be undone once, in the context it was done in."""
        self.begun += 1
        token = _owner.set("handler")
        try:
            yield
        finally:
            self.cleaned_up += 1
            _owner.reset(token)

    async def end(self, context: Any) -> None:
        match self.case.ending:
            case Ending.ABORT:
                await context.abort(CODE, DETAILS, (TRAILING,))
            case Ending.ABORT_WITH_STATUS:
                await context.abort_with_status(Status())
            case Ending.EXCEPTION:
                raise Unexpected(CANARY)
            case Ending.DEADLINE | Ending.CANCEL:
                self.waiting.set()
                await asyncio.get_running_loop().create_future()

    def end_in_thread(self, context: Any) -> None:
        match self.case.ending:
            case Ending.ABORT:
                context.abort(CODE, DETAILS, (TRAILING,))
            case Ending.EXCEPTION:
                raise Unexpected(CANARY)
            case Ending.DEADLINE | Ending.CANCEL:
                self.waiting.set()
                self.released.wait(PATIENCE_S)

    @property
    def abandoned(self) -> bool:
        return self.case.ending is Ending.ABANDONED

    @property
    def cut_short(self) -> bool:
        return self.case.ending in {Ending.DEADLINE, Ending.CANCEL}


def handler(probe: Probe) -> Any:
    case = probe.case
    if case.kind is Kind.PLAIN:
        make = _plain_generator if case.response_streaming else _plain_function
    elif case.kind is Kind.GENERATOR:
        make = _generator
    else:
        make = _writing if case.response_streaming else _returning
    return getattr(grpc, f"{case.arity}_rpc_method_handler")(make(probe), bytes, bytes)


def nothing() -> Any:
    """Another handler for the method, which returns."""

    async def handle(_requests: Any, _context: Any) -> None:
        pass

    return grpc.stream_stream_rpc_method_handler(handle)


def barrier() -> grpc.GenericRpcHandler:
    """A method that only returns, of another service."""

    async def handle(request: bytes, _context: Any) -> bytes:
        return request

    method: Any = grpc.unary_unary_rpc_method_handler(handle)
    return grpc.method_handlers_generic_handler("conformance.Barrier", {"Pass": method})


async def _received(case: Case, request: Any, context: Any) -> list[bytes]:
    if not case.request_streaming:
        return [request]
    if case.kind is not Kind.CONTEXT:
        return [message async for message in request]
    messages = []
    while (message := await context.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


def _returning(probe: Probe) -> Any:
    async def handle(request: Any, context: Any) -> bytes:
        with probe.handling():
            received = await _received(probe.case, request, context)
            await probe.end(context)
            return answer(received)

    return handle


def _generator(probe: Probe) -> Any:
    async def handle(request: Any, context: Any) -> AsyncIterator[bytes]:
        with probe.handling():
            yield answer(await _received(probe.case, request, context))
            while probe.abandoned:
                yield HUGE
            await probe.end(context)
            for message in LAST:
                yield message

    return handle


def _writing(probe: Probe) -> Any:
    async def handle(request: Any, context: Any) -> None:
        with probe.handling():
            await context.write(answer(await _received(probe.case, request, context)))
            while probe.abandoned:
                await context.write(HUGE)
            await probe.end(context)
            for message in LAST:
                await context.write(message)

    return handle


def _plain_function(probe: Probe) -> Any:
    def handle(request: Any, context: Any) -> bytes:
        with probe.handling():
            received = list(request) if probe.case.request_streaming else [request]
            probe.end_in_thread(context)
            return answer(received)

    return handle


def _plain_generator(probe: Probe) -> Any:
    def handle(request: Any, context: Any) -> Iterator[bytes]:
        with probe.handling():
            yield answer(list(request) if probe.case.request_streaming else [request])
            while probe.abandoned:
                yield HUGE
            probe.end_in_thread(context)
            if not probe.cut_short:
                yield from LAST

    return handle
