"""However a call ends: the wire, the spans, the metrics and the log say the same, on both sides."""

# ruff: noqa: N802  the contract names the methods

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Never

import grpc
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from structlog.typing import EventDict, WrappedLogger

from fakes.logs import logs_put_back
from fakes.orders import order_id
from fakes.telemetry import Seen
from harness import until
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc as rpc
from orderflow_client.channel import open_channel
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.resilience.limits import FixedLimit
from orderflow_client.telemetry import ClientTelemetry
from orderflow_client.telemetry.conventions import RPC_STATUS_CODE, SERVER_ERRORS
from orderflow_server.orders import errors
from orderflow_server.rpc.chain import ServerChain
from orderflow_server.rpc.interceptors.authentication import anybody
from orderflow_server.rpc.server import CONTRACT, ORDER_SERVICE, Admission, interceptors
from orderflow_server.telemetry.correlation import add_names

Code = grpc.StatusCode
End = Callable[[Any], Awaitable[None]]

NUMBER = "x-number"
IN_BETWEEN = "said by a handler"
log = structlog.get_logger("one truth")
DEADLINE_S = 0.3


@dataclass(frozen=True)
class Ending:
    """How a call ends.

    Attributes:
        handler: What the handler does at its end.
        code: What the caller sees; None when another says it.
        timeout_s: The caller's.
        cancelled: By the caller, while the handler waits.
        method: Called instead, when not the service's own.
        request: Sent instead, when not a good one.
    """

    name: str
    handler: End
    code: grpc.StatusCode
    timeout_s: float = 10.0
    cancelled: bool = False
    method: str = ""
    request: bytes = b""

    def __repr__(self) -> str:
        return self.name


async def nothing(_context: Any) -> None: ...


async def hang(_context: Any) -> None:
    await asyncio.get_running_loop().create_future()


async def stray_cancellation(_context: Any) -> None:
    waited_for = asyncio.get_running_loop().create_future()
    waited_for.cancel()
    await waited_for


def aborts(code: grpc.StatusCode) -> End:
    async def abort(context: Any) -> None:
        await context.abort(code, "as told")

    return abort


@dataclass
class Status(grpc.Status):
    """What a handler gives to `abort_with_status`."""

    code: grpc.StatusCode
    details: str = "as told"
    trailing_metadata: Any = ()


def aborts_with_status(code: grpc.StatusCode) -> End:
    async def abort(context: Any) -> None:
        await context.abort_with_status(Status(code))

    return abort


def sets(code: grpc.StatusCode) -> End:
    async def set_code(context: Any) -> None:
        context.set_code(code)

    return set_code


def raises(error: Exception) -> End:
    async def fail(_context: Any) -> None:
        raise error

    return fail


NOT_OK = [code for code in Code if code is not Code.OK]
ENDINGS = [
    Ending("return", nothing, Code.OK),
    *(Ending(f"abort {code.name}", aborts(code), code) for code in NOT_OK),
    *(Ending(f"status {code.name}", aborts_with_status(code), code) for code in NOT_OK),
    *(Ending(f"set {code.name}", sets(code), code) for code in NOT_OK),
    Ending("not found", raises(errors.OrderNotFound(order_id(1))), Code.NOT_FOUND),
    Ending("store down", raises(errors.StoreUnavailable("down")), Code.UNAVAILABLE),
    Ending("store full", raises(errors.StoreOverloaded("full")), Code.RESOURCE_EXHAUSTED),
    Ending("too late", raises(errors.DeadlineExpired("late")), Code.DEADLINE_EXCEEDED),
    Ending("bug", raises(KeyError("a bug")), Code.INTERNAL),
    Ending("own timeout", raises(TimeoutError()), Code.INTERNAL),
    Ending("stray cancellation", stray_cancellation, Code.INTERNAL),
    Ending("deadline", hang, Code.DEADLINE_EXCEEDED, timeout_s=DEADLINE_S),
    Ending("cancelled", hang, Code.CANCELLED, cancelled=True),
    Ending("garbage", nothing, Code.INVALID_ARGUMENT, request=b"\xff"),
    Ending("no method", nothing, Code.UNIMPLEMENTED, method=f"/{ORDER_SERVICE}/NoMethod"),
    Ending("no service", nothing, Code.UNIMPLEMENTED, method="/no.Service/Method"),
]


@dataclass(frozen=True)
class Call:
    """A call to make.

    Attributes:
        messages: How many the stream has before its end; None for a call with one response.
    """

    ending: Ending
    messages: int | None

    @property
    def streaming(self) -> bool:
        return self.messages is not None

    @property
    def method(self) -> str:
        own = "WatchOrder" if self.streaming else "GetOrder"
        return self.ending.method or f"/{ORDER_SERVICE}/{own}"


class AsTold(rpc.OrderServiceServicer):
    """Ends each call, which says its number, as that call is to end."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self.begun: set[int] = set()

    def _call(self, context: Any) -> Call:
        number = int(dict(context.invocation_metadata())[NUMBER])
        self.begun.add(number)
        log.info(IN_BETWEEN, number=number)
        return self._calls[number]

    async def GetOrder(self, request: Any, context: Any) -> pb.GetOrderResponse:
        await self._call(context).ending.handler(context)
        return pb.GetOrderResponse()

    async def WatchOrder(self, request: Any, context: Any) -> AsyncIterator[pb.WatchOrderResponse]:
        call = self._call(context)
        for _ in range(call.messages or 0):
            yield pb.WatchOrderResponse()
        await call.ending.handler(context)

    async def CreateOrder(self, request: Any, context: Any) -> Never:
        raise NotImplementedError

    ListOrders = CancelOrder = CreateOrder


@dataclass
class Logs:
    """The lines of both sides: the server's of structlog, the client's of the standard library."""

    server: list[EventDict] = field(default_factory=list)
    client: list[logging.LogRecord] = field(default_factory=list)

    @contextmanager
    def kept(self) -> Iterator[None]:
        client = self.client

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                client.append(record)

        def keep(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
            self.server.append(event)
            raise structlog.DropEvent

        with logs_put_back():
            structlog.configure(
                processors=[add_names, keep],
                wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
                cache_logger_on_first_use=False,
            )
            logger, handler = logging.getLogger("orderflow_client.calls"), Handler()
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)
            try:
                yield
            finally:
                logger.removeHandler(handler)
                logger.setLevel(logging.NOTSET)


@dataclass
class Run:
    """Calls that were made, side by side, and what was seen of them."""

    calls: Sequence[Call]
    server: Seen = field(default_factory=Seen)
    client: Seen = field(default_factory=Seen)
    logs: Logs = field(default_factory=Logs)
    codes: list[grpc.StatusCode] = field(default_factory=list)
    traces: list[int] = field(default_factory=list)

    async def make(self) -> None:
        with self.logs.kept():
            servicer = AsTold(self.calls)
            async with self._serving(servicer) as target:
                channel = open_channel(
                    target,
                    # One attempt each, so that every call here is one there.
                    contract={
                        path: dataclasses.replace(method, retry=None, hedging=None)
                        for path, method in CONTRACT.items()
                    },
                    breaker=BreakerOptions(minimum_attempts=10_000),
                    telemetry=ClientTelemetry(
                        tracer_provider=self.client.tracer_provider, registry=self.client.registry
                    ),
                )
                async with channel:
                    # Begun in their order, each in a trace of its own.
                    made = [
                        asyncio.create_task(self._one(channel, servicer, number))
                        for number in range(len(self.calls))
                    ]
                    self.codes = await asyncio.gather(*made)
                await until(lambda: len(self._ended(self.server)) == len(self.calls))

    @asynccontextmanager
    async def _serving(self, servicer: AsTold) -> AsyncIterator[str]:
        limits = Admission(
            unary=Limiter(FixedLimit(1000), name="calls"),
            streams=Limiter(FixedLimit(1000), name="streams"),
        )
        # Without its last, which runs a handler again.
        *around, _retry = interceptors(limits, anybody(trusted=False), self.server.call_telemetry())
        chain = ServerChain(around, services=[ORDER_SERVICE])
        server = grpc.aio.server(interceptors=[chain], options=[("grpc.so_reuseport", 0)])
        rpc.add_OrderServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)
            await chain.finish(timeout_s=5)

    async def _one(
        self, channel: grpc.aio.Channel, servicer: AsTold, number: int
    ) -> grpc.StatusCode:
        call, ending = self.calls[number], self.calls[number].ending
        arity = "unary_stream" if call.streaming else "unary_unary"
        method: Any = getattr(channel, arity)(call.method)
        tracer = self.client.tracer_provider.get_tracer("caller")
        with tracer.start_as_current_span(f"caller {number}") as span:
            self.traces.append(span.get_span_context().trace_id)
            made = method(
                ending.request or pb.GetOrderRequest(order_id="1").SerializeToString(),
                timeout=ending.timeout_s,
                metadata=((NUMBER, str(number)),),
            )
            answered = asyncio.ensure_future(self._answered(made, call))
            if ending.cancelled:
                await until(lambda: number in servicer.begun)
                made.cancel()
            return await answered

    async def _answered(self, made: Any, call: Call) -> grpc.StatusCode:
        try:
            if call.streaming:
                async for _ in made:
                    pass
            else:
                await made
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        code: grpc.StatusCode = await made.code()
        return code

    def _ended(self, seen: Seen) -> list[ReadableSpan]:
        return [span for span in seen.spans if span.kind is SpanKind.SERVER]

    def check(self) -> None:
        for number, call in enumerate(self.calls):
            assert self.codes[number] is call.ending.code, call
            trace, code = self.traces[number], self.codes[number]
            self._check_server(trace, call, code)
            self._check_client(trace, call, code)
        self._check_metrics()

    def _check_server(self, trace: int, call: Call, code: grpc.StatusCode) -> None:
        [span] = [each for each in self._ended(self.server) if trace_of(each) == trace]
        assert code_of(span) is code, call
        failed = span.status.status_code is StatusCode.ERROR
        assert failed == (code in SERVER_ERRORS), call
        assert not span.events, call
        *between, line = [
            each for each in self.logs.server if each["trace_id"] == format_trace_id(trace)
        ]
        assert [self.calls[each["number"]] for each in between] == [call] * len(between)
        assert {each["request_id"] for each in between} <= {line["request_id"]}
        assert {each["span_id"] for each in between} <= {line["span_id"]}
        assert line["code"] == code.name, call
        assert line["span_id"] == format_span_id(span.context.span_id), call

    def _check_client(self, trace: int, call: Call, code: grpc.StatusCode) -> None:
        spans = [
            each
            for each in self.client.spans
            if trace_of(each) == trace and each.kind is SpanKind.CLIENT
        ]
        assert len(spans) == 2, call  # The call, and its one attempt.
        for span in spans:
            assert code_of(span) is code, call
            assert (span.status.status_code is StatusCode.ERROR) == (code is not Code.OK), call
        [line] = [
            each for each in self.logs.client if vars(each)["trace_id"] == format_trace_id(trace)
        ]
        assert vars(line)["code"] == code.name, call

    def _check_metrics(self) -> None:
        """By method and code; what is not there goes by its name only where that was chosen."""
        made = list(zip(self.calls, self.codes, strict=True))
        on_the_client = Counter((call.method, code.name) for call, code in made)
        on_the_server = Counter(
            ("/other/other" if call.ending.method else call.method, code.name)
            for call, code in made
        )
        assert counted(self.client, "grpc_client") == on_the_client
        assert counted(self.server, "grpc_server") == on_the_server
        for seen, side in ((self.client, "grpc_client"), (self.server, "grpc_server")):
            for suffix in ("started_total", "handling_seconds_count"):
                assert total(seen, f"{side}_{suffix}") == len(made)


def trace_of(span: ReadableSpan) -> int:
    trace_id: int = span.context.trace_id
    return trace_id


def code_of(span: ReadableSpan) -> grpc.StatusCode:
    assert span.attributes is not None
    number = span.attributes[RPC_STATUS_CODE]
    return next(code for code in Code if code.value[0] == number)


def counted(seen: Seen, side: str) -> Counter[tuple[str, str]]:
    return Counter(
        {
            (
                f"/{sample.labels['grpc_service']}/{sample.labels['grpc_method']}",
                sample.labels["grpc_code"],
            ): int(sample.value)
            for family in seen.registry.collect()
            for sample in family.samples
            if sample.name == f"{side}_handled_total" and sample.value
        }
    )


def total(seen: Seen, name: str) -> float:
    return sum(
        sample.value
        for family in seen.registry.collect()
        for sample in family.samples
        if sample.name == name
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            Call,
            ending=st.sampled_from(ENDINGS),
            messages=st.one_of(st.none(), st.integers(0, 3)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_everything_agrees_however_calls_end(calls: list[Call]) -> None:
    async def run() -> None:
        made = Run(calls)
        await made.make()
        made.check()

    asyncio.run(run())


async def test_everything_agrees_for_every_ending_at_once() -> None:
    """100 calls side by side and more: none is told under another's name."""
    made = Run([Call(ending, messages) for ending in ENDINGS for messages in (None, 2)])
    assert len(made.calls) >= 100
    await made.make()
    made.check()
