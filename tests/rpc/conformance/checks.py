"""Runs one case on a real server and checks everything about how it went."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import grpc
from rpc.conformance.cases import Case, Ending
from rpc.conformance.noise import leftovers, recorded_noise, threads_of_its_own
from rpc.conformance.service import (
    BARRIER,
    CANARY,
    CODE,
    DETAILS,
    HUGE,
    LAST,
    METHOD,
    PATH,
    REQUEST,
    REQUESTS,
    SERVICE,
    TRAILING,
    Probe,
    Unexpected,
    answer,
    barrier,
    handler,
    nothing,
)

from harness import until
from orderflow_server.acceptors import Acceptors
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Operation, ServerChain

DEADLINE_S = 0.08
LONG_S = 1.0
PROMPT_S = 0.5
"""How soon what a call leaves behind must be gone."""


@dataclass(frozen=True)
class Errors:
    """What becomes of the handler's uncaught exception.

    Attributes:
        mapped: It is INTERNAL and its text stays on the server; otherwise it is what gRPC makes
            of it by itself. None allows both.
    """

    mapped: bool | None


_inside: ContextVar[bool] = ContextVar("inside", default=False)


@dataclass
class Watch:
    """The outermost interceptor: notes how each call looks from there when it is over."""

    probe: Probe
    codes: list[grpc.StatusCode] = field(default_factory=list)
    errors: list[BaseException | None] = field(default_factory=list)

    async def __call__(self, call: ServerCall, proceed: Operation) -> Any:
        token = _inside.set(True)
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
            # Raises when this is another context.
            _inside.reset(token)
            assert self.probe.cleaned_up == self.probe.begun, "left before the handler was done"
            self.codes.append(call.code)


@dataclass(frozen=True)
class Outcome:
    """What the caller got."""

    messages: list[bytes]
    code: grpc.StatusCode
    details: str
    trailing: Sequence[tuple[str, str | bytes]]


async def check(
    probe: Probe,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
    errors: Errors,
    watch: Watch | None,
    *,
    accepted_by: ServerChain | None = None,
) -> None:
    """Runs the case.

    Args:
        interceptors: Of the server.
        errors: What becomes of an uncaught exception.
        watch: The outermost of them, where they are ours.
        accepted_by: The call is taken in by acceptors, which leave the interceptors out, and has
            this chain around it.
    """
    case = probe.case
    before = asyncio.all_tasks()
    with recorded_noise() as noise:
        with threads_of_its_own() as threads:
            server = grpc.aio.server(interceptors=interceptors)
            server.add_generic_rpc_handlers([barrier()])
            port = server.add_insecure_port("127.0.0.1:0")
            if accepted_by is None:
                server.add_registered_method_handlers(SERVICE, {METHOD: handler(probe)})
                await server.start()
            else:
                resolver = accepted_by.resolver({PATH: handler(probe)})
                acceptors = Acceptors(server, lambda _: resolver)
                acceptors.add_registered_method_handlers(SERVICE, {METHOD: nothing()})
                await acceptors.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    # A deadline is for the call alone.
                    await channel.channel_ready()
                    if accepted_by is not None:
                        # The server was first to ask for a call, and gets the first.
                        first: Any = channel.stream_stream(PATH)
                        assert [each async for each in first(iter(()))] == []
                    outcome = await _called(channel, probe)
                    # What is sent later arrives later: the server knows of a cancellation by now.
                    passing: Any = channel.unary_unary(BARRIER)
                    await passing(b"")
                    probe.released.set()
                    await _settled(lambda: probe.cleaned_up >= probe.begun)
                    if watch is not None:
                        await _settled(lambda: watch.codes)
            finally:
                probe.released.set()
                await server.stop(None)
        left = await leftovers(before, threads, timeout_s=PROMPT_S)

    code = _check_status(case, outcome, errors)
    _check_messages(case, outcome)
    assert (probe.begun, probe.cleaned_up) == (1, 1)
    if watch is not None:
        assert watch.codes == [code]
        _check_error(case, watch.errors)
    assert left == []
    assert [line for line in noise if not _to_be_expected(line, case, errors)] == []


async def _called(channel: grpc.aio.Channel, probe: Probe) -> Outcome:
    case = probe.case
    method: Any = getattr(channel, case.arity)(PATH)
    call = method(
        iter(REQUESTS) if case.request_streaming else REQUEST,
        timeout=DEADLINE_S if case.ending is Ending.DEADLINE else LONG_S,
    )
    messages: list[bytes] = []
    try:
        if case.response_streaming:
            async for message in call:
                messages.append(message)
                if case.ending is Ending.ABANDONED:
                    call.cancel()
                if case.ending is Ending.CANCEL:
                    await _cancelled(call, probe)
        elif case.ending is Ending.CANCEL:
            await _cancelled(call, probe)
        else:
            messages.append(await call)
    except grpc.aio.AioRpcError:
        pass  # told by the call itself
    except asyncio.CancelledError:
        if not call.cancelled():
            raise
    return Outcome(
        messages, await call.code(), await call.details() or "", await call.trailing_metadata()
    )


async def _cancelled(call: Any, probe: Probe) -> None:
    await until(lambda: probe.waiting.is_set() or call.done())
    call.cancel()


async def _settled(condition: Any) -> None:
    with suppress(TimeoutError):  # the checks say what it is that has not come
        await until(condition, timeout_s=PROMPT_S)


def _check_status(case: Case, outcome: Outcome, errors: Errors) -> grpc.StatusCode:
    """Returns the status that the call must have had in the eyes of the server."""
    match case.ending:
        case Ending.RETURN:
            assert (outcome.code, outcome.details) == (grpc.StatusCode.OK, "")
        case Ending.ABORT | Ending.ABORT_WITH_STATUS:
            assert (outcome.code, outcome.details) == (CODE, DETAILS)
            assert TRAILING in [tuple(pair) for pair in outcome.trailing]
        case Ending.DEADLINE:
            assert outcome.code is grpc.StatusCode.DEADLINE_EXCEEDED
        case Ending.CANCEL | Ending.ABANDONED:
            assert outcome.code is grpc.StatusCode.CANCELLED
        case Ending.EXCEPTION if errors.mapped or (
            errors.mapped is None and outcome.code is not grpc.StatusCode.UNKNOWN
        ):
            assert outcome.code is grpc.StatusCode.INTERNAL
            assert CANARY not in f"{outcome.details} {outcome.trailing}"
        case Ending.EXCEPTION:
            assert outcome.code is grpc.StatusCode.UNKNOWN
            assert outcome.details == f"Unexpected {Unexpected}: {CANARY}"
    return outcome.code


def _check_error(case: Case, errors: list[BaseException | None]) -> None:
    [error] = errors
    match case.ending:
        case Ending.RETURN:
            assert error is None
        case Ending.DEADLINE | Ending.CANCEL | Ending.ABANDONED:
            assert isinstance(error, asyncio.CancelledError)
        case Ending.ABORT | Ending.ABORT_WITH_STATUS:
            assert isinstance(error, grpc.aio.AbortError)
        case Ending.EXCEPTION:
            assert isinstance(error, Unexpected | grpc.aio.AbortError)


def _check_messages(case: Case, outcome: Outcome) -> None:
    first = answer(REQUESTS if case.request_streaming else [REQUEST])
    if case.response_streaming:
        last = LAST if case.ending is Ending.RETURN else []
        assert [message for message in outcome.messages if message != HUGE] == [first, *last]
    else:
        assert outcome.messages == ([first] if case.ending is Ending.RETURN else [])


def _to_be_expected(line: str, case: Case, errors: Errors) -> bool:
    """gRPC logs the exceptions that nobody mapped."""
    return (
        not errors.mapped
        and case.ending is Ending.EXCEPTION
        and f"Unexpected [{Unexpected.__name__}]" in line
    )
