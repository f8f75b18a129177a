"""What the suite is run against."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import grpc
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.trace import TracerProvider
from rpc.conformance.cases import Case
from rpc.conformance.checks import Errors, Watch, check
from rpc.conformance.service import PATH, SERVICE, Probe

from fakes.telemetry import Seen
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.resilience.limits import FixedLimit
from orderflow_server.rpc.chain import Interceptor, ServerChain
from orderflow_server.rpc.interceptors.authentication import anybody
from orderflow_server.rpc.interceptors.deadline import deadlines
from orderflow_server.rpc.interceptors.error_mapping import error_mapping
from orderflow_server.rpc.server import Admission, interceptors


@dataclass(frozen=True)
class Target:
    """Something to run the cases against.

    Attributes:
        run: Raises AssertionError when the case does not go as it must.
        fails: The cases that do not, by their ids, with the reasons. A change of this set fails
            the suite.
        sometimes_fails: Likewise, where it is a matter of luck.
    """

    name: str
    run: Callable[[Case], Awaitable[None]]
    fails: Mapping[str, str] = field(default_factory=dict)
    sometimes_fails: Mapping[str, str] = field(default_factory=dict)


def _because(reason: str, *cases: str) -> dict[str, str]:
    return dict.fromkeys(cases, reason)


GRPC_FAILS = _because(
    "the garbage collector has the generator closed by another task, in another context",
    "unary_stream-generator-abandoned",
    "stream_stream-generator-abandoned",
) | _because(
    "the thread waits for good to hand over a message that nobody takes",
    "unary_stream-plain-abandoned",
    "stream_stream-plain-abandoned",
)
GRPC_SOMETIMES_FAILS = _because(
    "the thread aborts while the message before is still being sent",
    "unary_stream-plain-abort",
    "stream_stream-plain-abort",
) | _because(
    "the log has an ExecuteBatchError when sending fails before gRPC hears of the cancellation",
    "unary_stream-context-abandoned",
    "stream_stream-context-abandoned",
)
OPENTELEMETRY_FAILS = (
    _because(
        "the span is ended by another task, in another context",
        "unary_stream-generator-abandoned",
        "stream_stream-generator-abandoned",
    )
    | _because(
        "it iterates over what is a coroutine",
        "unary_stream-context-return",
        "unary_stream-context-abort",
        "unary_stream-context-abort_with_status",
        "unary_stream-context-exception",
        "unary_stream-context-deadline",
        "unary_stream-context-cancel",
        "unary_stream-context-abandoned",
        "stream_stream-context-return",
        "stream_stream-context-abort",
        "stream_stream-context-abort_with_status",
        "stream_stream-context-exception",
        "stream_stream-context-deadline",
        "stream_stream-context-cancel",
        "stream_stream-context-abandoned",
    )
    | _because(
        "it calls a plain function in the event loop and awaits its answer",
        "unary_unary-plain-return",
        "unary_unary-plain-abort",
        "unary_unary-plain-deadline",
        "unary_unary-plain-cancel",
        "stream_unary-plain-return",
        "stream_unary-plain-abort",
        "stream_unary-plain-exception",
        "stream_unary-plain-deadline",
        "stream_unary-plain-cancel",
    )
    | _because(
        "it iterates over a plain generator as if it were asynchronous",
        "unary_stream-plain-return",
        "unary_stream-plain-abort",
        "unary_stream-plain-exception",
        "unary_stream-plain-deadline",
        "unary_stream-plain-cancel",
        "unary_stream-plain-abandoned",
        "stream_stream-plain-return",
        "stream_stream-plain-abort",
        "stream_stream-plain-exception",
        "stream_stream-plain-deadline",
        "stream_stream-plain-cancel",
        "stream_stream-plain-abandoned",
    )
)


def targets() -> list[Target]:
    """gRPC by itself, our interceptors, and another library's."""
    ours = [getattr(interceptor, "__name__", type(interceptor).__name__) for interceptor in _ours()]
    return [
        Target("grpc", lambda case: _stock(case, []), GRPC_FAILS, GRPC_SOMETIMES_FAILS),
        *(
            _chain(f"{number}-{name}", partial(_one_of_ours, number))
            for number, name in enumerate(ours)
        ),
        _chain("deadlines-with-a-limit", lambda: [deadlines({PATH: 5.0})]),
        _chain("the-whole-chain", _ours),
        _chain("the-whole-chain-accepted", _ours, accepted=True),
        Target("opentelemetry", lambda case: _stock(case, [_opentelemetry()]), OPENTELEMETRY_FAILS),
    ]


def _ours() -> Sequence[Interceptor]:
    """The service's own list, with room for every call."""
    return interceptors(
        Admission(
            unary=Limiter(FixedLimit(1000), name="calls"),
            streams=Limiter(FixedLimit(1000), name="streams"),
        ),
        anybody(trusted=False),
        Seen().call_telemetry(),
    )


def _one_of_ours(number: int) -> Sequence[Interceptor]:
    return [_ours()[number]]


def pointed_at(place: str) -> Target:
    """The interceptors that `module:factory` makes."""
    module, _, factory = place.partition(":")
    make = getattr(importlib.import_module(module), factory)
    return Target(place, lambda case: check(Probe(case), make(), Errors(mapped=None), None))


def _stock(case: Case, stock: Sequence[grpc.aio.ServerInterceptor]) -> Awaitable[None]:
    return check(Probe(case), stock, Errors(mapped=False), None)


def _chain(
    name: str, make: Callable[[], Sequence[Interceptor]], *, accepted: bool = False
) -> Target:
    async def run(case: Case) -> None:
        inner = make()
        probe = Probe(case)
        watch = Watch(probe)
        chain = ServerChain([watch, *inner], services=[SERVICE])
        await check(
            probe,
            [] if accepted else [chain],
            Errors(mapped=error_mapping in inner),
            watch,
            accepted_by=chain if accepted else None,
        )
        assert chain.calls == 0

    return Target(name, run)


def _opentelemetry() -> grpc.aio.ServerInterceptor:
    # The library leaves the types of this function out.
    made: grpc.aio.ServerInterceptor = aio_server_interceptor(TracerProvider())  # type: ignore[no-untyped-call]
    return made
