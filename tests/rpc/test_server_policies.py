"""Admission, the second run and the deadline, as the server puts them around its handlers."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fakes.telemetry import Seen
from harness import failure_of, until
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc as rpc
from orderflow_client.resilience import deadline
from orderflow_client.resilience.breaker import BreakerOpen
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import CallShed, PolicyEvent, RetryScheduled, ShedReason
from orderflow_client.resilience.limiter import Limiter, QueueOptions
from orderflow_client.resilience.limits import FixedLimit
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation, ServerChain
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.interceptors.authentication import anybody
from orderflow_server.rpc.server import ORDER_SERVICE, Admission, interceptors

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
NO_QUEUE = QueueOptions(max_waiting=0)
PATIENT_QUEUE_OF_ONE = QueueOptions(max_waiting=1, max_wait_s=30.0, calm_s=0.0)

IN_FLIGHT = WAITING = 50

Behavior = Callable[[], Awaitable[None]]


class Scripted(rpc.OrderServiceServicer):
    """Does before each answer what a test tells it.

    Attributes:
        runs: The methods whose handlers ran, in order.
    """

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.behave: Behavior = self._at_once

    async def _at_once(self) -> None:
        pass

    async def _answer(self, method: str, response: Any) -> Any:
        self.runs.append(method)
        await self.behave()
        return response

    async def CreateOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("CreateOrder", pb.CreateOrderResponse())

    async def GetOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("GetOrder", pb.GetOrderResponse())

    async def ListOrders(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("ListOrders", pb.ListOrdersResponse())

    async def CancelOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._answer("CancelOrder", pb.CancelOrderResponse())

    async def WatchOrder(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield await self._answer("WatchOrder", pb.WatchOrderResponse())


class Gate:
    """A behavior: every handler waits until it is opened."""

    def __init__(self) -> None:
        self._open = asyncio.Event()

    async def __call__(self) -> None:
        await self._open.wait()

    def open(self) -> None:
        self._open.set()


def failing(*errors: Exception) -> Behavior:
    """Each of the errors once, then no more."""
    script = list(errors)

    async def behave() -> None:
        if script:
            raise script.pop(0)

    return behave


@dataclass(frozen=True)
class Server:
    servicer: Scripted
    stub: rpc.OrderServiceAsyncStub
    channel: grpc.aio.Channel
    limits: Admission
    chain: ServerChain
    events: list[PolicyEvent]

    @property
    def retries(self) -> list[RetryScheduled]:
        return [event for event in self.events if isinstance(event, RetryScheduled)]

    @property
    def shed(self) -> list[ShedReason]:
        return [event.reason for event in self.events if isinstance(event, CallShed)]

    @property
    def idle(self) -> bool:
        limits = self.limits
        busy = limits.unary.in_flight, limits.unary.waiting, limits.streams.in_flight
        return busy == (0, 0, 0) and self.chain.calls == 0


@asynccontextmanager
async def serving(
    *,
    unary: int = 100,
    streams: int = 100,
    queue: QueueOptions = NO_QUEUE,
    trust_callers: bool = False,
    outermost: Sequence[Interceptor] = (),
    around_retry: Sequence[Interceptor] = (),
) -> AsyncIterator[Server]:
    """The interceptors as `make_server` puts them together, around a scripted service."""
    servicer, events = Scripted(), list[PolicyEvent]()
    limits = Admission(
        unary=Limiter(FixedLimit(unary), name="calls", queue=queue, listeners=[events.append]),
        streams=Limiter(
            FixedLimit(streams), name="streams", queue=NO_QUEUE, listeners=[events.append]
        ),
    )
    *outer, retry = interceptors(
        limits,
        anybody(trusted=trust_callers),
        Seen(sampler=ALWAYS_OFF).call_telemetry(),
        listeners=[events.append],
    )
    chain = ServerChain([*outermost, *outer, *around_retry, retry], services=[ORDER_SERVICE])
    server = grpc.aio.server(interceptors=[chain])
    rpc.add_OrderServiceServicer_to_server(servicer, server)
    health = HealthService([ORDER_SERVICE])
    health.serve()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]  # the library carries no types
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        # Nothing but the server may repeat anything.
        options = [("grpc.enable_retries", 0)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            stub = rpc.OrderServiceStub(channel)
            yield Server(servicer, stub, channel, limits, chain, events)
    finally:
        await server.stop(None)
        await chain.finish(timeout_s=5)


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def retry_after_ms(error: grpc.aio.AioRpcError) -> int:
    """What the caller is told: the pushback, which RetryInfo must agree with."""
    metadata = dict(error.trailing_metadata())
    pushback = metadata["grpc-retry-pushback-ms"]
    details = metadata["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    info = error_details_pb2.RetryInfo()
    assert any(d.Unpack(info) for d in status_pb2.Status.FromString(details).details)
    assert info.retry_delay.ToMilliseconds() == int(pushback)
    return int(pushback)


def get(server: Server, **options: Any) -> Any:
    return server.stub.GetOrder(pb.GetOrderRequest(), **options)


def create(server: Server, **options: Any) -> Any:
    return server.stub.CreateOrder(pb.CreateOrderRequest(), **options)


def list_(server: Server, **options: Any) -> Any:
    return server.stub.ListOrders(pb.ListOrdersRequest(), **options)


def watch(server: Server, **options: Any) -> Any:
    return server.stub.WatchOrder(pb.WatchOrderRequest(), **options)


# --- admission ------------------------------------------------------------------------


async def test_a_call_too_many_is_refused_and_told_when_to_come_back() -> None:
    async with serving(unary=1) as server:
        server.servicer.behave = gate = Gate()
        first = get(server)
        await until(lambda: server.servicer.runs)
        error = await refusal(get(server))
        assert error.code() is EXHAUSTED
        assert failure_of(error).reason == "OVERLOADED"
        assert retry_after_ms(error) > 0
        assert server.servicer.runs == ["GetOrder"]
        assert server.limits.unary.in_flight == 1
        gate.open()
        await first
        await until(lambda: server.idle)
        await get(server)


@pytest.mark.parametrize("error", [RuntimeError("a defect"), StoreUnavailable("gone")])
async def test_a_handler_that_fails_gives_its_place_back(error: Exception) -> None:
    async with serving(unary=1) as server:
        server.servicer.behave = failing(*[error] * 6)
        for _ in range(3):
            await refusal(get(server))
            await until(lambda: server.idle)
        assert server.shed == []


async def test_the_less_critical_waiter_makes_room_for_the_more_critical_call() -> None:
    """ListOrders is sheddable and CreateOrder critical, by the contract."""
    async with serving(unary=1, queue=PATIENT_QUEUE_OF_ONE) as server:
        server.servicer.behave = gate = Gate()
        first = get(server)
        await until(lambda: server.servicer.runs)
        listing = list_(server)
        await until(lambda: server.limits.unary.waiting == 1)
        creating = create(server)
        error = await refusal(listing)
        assert error.code() is EXHAUSTED
        assert failure_of(error).reason == "OVERLOADED"
        assert retry_after_ms(error) > 0
        # The other way round the newcomer is the one that goes.
        assert (await refusal(list_(server))).code() is EXHAUSTED
        assert server.shed == [ShedReason.DISPLACED, ShedReason.QUEUE_FULL]
        gate.open()
        await first
        await creating
        assert server.servicer.runs == ["GetOrder", "CreateOrder"]
        await until(lambda: server.idle)


@pytest.mark.parametrize("trusted", [False, True])
async def test_how_critical_a_call_is_may_be_said_by_trusted_callers_only(*, trusted: bool) -> None:
    critical = (("x-criticality", "critical"),)
    async with serving(unary=1, queue=PATIENT_QUEUE_OF_ONE, trust_callers=trusted) as server:
        server.servicer.behave = gate = Gate()
        first = get(server)
        await until(lambda: server.servicer.runs)
        waiting = get(server)
        await until(lambda: server.limits.unary.waiting == 1)
        listing = list_(server, metadata=critical)
        shed, served = (waiting, listing) if trusted else (listing, waiting)
        assert (await refusal(shed)).code() is EXHAUSTED
        gate.open()
        await first
        await served
        await until(lambda: server.idle)


async def test_a_criticality_that_does_not_exist_is_not_heard() -> None:
    async with serving(trust_callers=True) as server:
        await get(server, metadata=(("x-criticality", "utmost"),))
        assert server.servicer.runs == ["GetOrder"]


async def test_health_answers_while_there_is_no_room_for_calls() -> None:
    async with serving(unary=1) as server:
        server.servicer.behave = gate = Gate()
        first = get(server)
        await until(lambda: server.servicer.runs)
        stub = health_pb2_grpc.HealthStub(server.channel)  # type: ignore[no-untyped-call]  # untyped
        for _ in range(5):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=ORDER_SERVICE))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert server.limits.unary.in_flight == 1
        gate.open()
        await first


async def test_streams_and_calls_do_not_take_each_others_places() -> None:
    async with serving(unary=1, streams=1) as server:
        server.servicer.behave = gate = Gate()
        call, stream = get(server), watch(server)
        await until(lambda: len(server.servicer.runs) == 2)
        assert (server.limits.unary.in_flight, server.limits.streams.in_flight) == (1, 1)
        refused = watch(server)
        error = await refusal(refused.read())
        assert error.code() is EXHAUSTED
        assert retry_after_ms(error) > 0
        assert (await refusal(get(server))).code() is EXHAUSTED
        gate.open()
        await call
        assert [each async for each in stream] == [pb.WatchOrderResponse()]
        await until(lambda: server.idle)


async def test_an_abandoned_stream_gives_its_place_back() -> None:
    async with serving(streams=1) as server:
        server.servicer.behave = Gate()
        for number in range(1, 4):
            stream = watch(server)
            await until(partial(lambda number: len(server.servicer.runs) == number, number))
            stream.cancel()
            await until(lambda: server.idle)
        assert server.shed == []


# --- the second run -------------------------------------------------------------------


@pytest.mark.parametrize("call", [create, get, list_])
async def test_a_store_that_fails_once_is_not_noticed(call: Callable[[Server], Any]) -> None:
    async with serving() as server:
        server.servicer.behave = failing(StoreUnavailable("connection lost"))
        await call(server)
        assert len(server.servicer.runs) == 2
        assert [retry.attempt for retry in server.retries] == [1]
        await until(lambda: server.idle)


async def test_a_store_that_fails_twice_is_the_callers_to_ask_again() -> None:
    async with serving() as server:
        server.servicer.behave = failing(*(StoreUnavailable(str(n)) for n in range(5)))
        error = await refusal(get(server))
        assert error.code() is UNAVAILABLE
        assert failure_of(error).reason == "STORE_UNAVAILABLE"
        assert retry_after_ms(error) > 0
        assert server.servicer.runs == ["GetOrder"] * 2


async def test_an_open_breaker_is_not_asked_again() -> None:
    async with serving() as server:
        server.servicer.behave = failing(BreakerOpen("open", name="store", retry_after_s=4.25))
        error = await refusal(get(server))
        assert error.code() is UNAVAILABLE
        assert failure_of(error).reason == "BREAKER_OPEN"
        assert retry_after_ms(error) == 4250
        assert server.servicer.runs == ["GetOrder"]
        assert server.retries == []


async def test_a_defect_is_not_run_again() -> None:
    async with serving() as server:
        server.servicer.behave = failing(RuntimeError("a defect"))
        assert (await refusal(get(server))).code() is grpc.StatusCode.INTERNAL
        assert server.servicer.runs == ["GetOrder"]


async def test_a_second_run_that_would_come_too_late_is_not_made() -> None:
    """What is left of the deadline is less than the delay before it."""

    async def little_time_left(call: ServerCall, proceed: Operation) -> Any:
        deadline.enter(Deadline.after(0.01))
        return await proceed(call)

    async with serving(around_retry=[little_time_left]) as server:
        server.servicer.behave = failing(StoreUnavailable("connection lost"))
        error = await refusal(get(server))
        assert error.code() is UNAVAILABLE
        assert server.servicer.runs == ["GetOrder"]
        assert server.retries == []


async def test_a_stream_is_never_run_again() -> None:
    async with serving() as server:
        server.servicer.behave = failing(StoreUnavailable("connection lost"))
        error = await refusal(watch(server).read())
        assert error.code() is UNAVAILABLE
        assert retry_after_ms(error) > 0
        assert server.servicer.runs == ["WatchOrder"]
        assert server.retries == []


async def test_both_runs_have_one_place_among_the_calls() -> None:
    async with serving(unary=1) as server:
        taken: list[int] = []

        async def fail_once() -> None:
            taken.append(server.limits.unary.in_flight)
            if len(taken) == 1:
                raise StoreUnavailable("connection lost")

        server.servicer.behave = fail_once
        await get(server)
        assert taken == [1, 1]
        assert server.shed == []


# --- deadlines and cancellations ------------------------------------------------------


async def test_no_handler_runs_for_a_call_that_arrives_too_late() -> None:
    async def slow_network(call: ServerCall, proceed: Operation) -> Any:
        call.deadline = Deadline.after(0.0)
        return await proceed(call)

    # With one place and nobody to give it back, being late must not take it.
    async with serving(unary=1, outermost=[slow_network]) as server:
        for call in (get(server), create(server), watch(server).read()):
            error = await refusal(call)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert failure_of(error).reason == "DEADLINE_EXCEEDED"
        await until(lambda: server.idle)
        assert server.servicer.runs == []
        assert server.shed == []


async def test_a_call_that_is_late_before_it_is_sent_is_not_served() -> None:
    async with serving() as server:
        error = await refusal(get(server, timeout=-1.0))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        # If it was sent after all, it has arrived when a later call on the connection has.
        await create(server)
        await until(lambda: server.idle)
        assert server.servicer.runs == ["CreateOrder"]


async def test_a_deadline_that_passes_in_the_queue_frees_the_place_in_it() -> None:
    async with serving(unary=1, queue=PATIENT_QUEUE_OF_ONE) as server:
        server.servicer.behave = gate = Gate()
        first = get(server)
        await until(lambda: server.servicer.runs)
        late = await refusal(get(server, timeout=0.05))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: server.limits.unary.waiting == 0)
        gate.open()
        await first
        await until(lambda: server.idle)
        assert server.servicer.runs == ["GetOrder"]


async def cancel_many(server: Server, number: int) -> None:
    """Calls in every stage: in their handlers, in the queue, refused, and not sent yet."""
    calls = [get(server) for _ in range(number // 2)]
    await until(lambda: server.limits.unary.waiting == WAITING)
    assert server.limits.unary.in_flight == IN_FLIGHT
    calls += [get(server) for _ in range(number // 2)]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: server.idle, timeout_s=10)


async def test_2000_cancelled_calls_leave_no_place_taken_no_task_and_no_memory() -> None:
    queue = QueueOptions(max_waiting=WAITING, max_wait_s=30.0, calm_s=0.0)
    async with serving(unary=IN_FLIGHT, queue=queue) as server:
        server.servicer.behave = Gate()
        tasks_before = len(asyncio.all_tasks())
        sizes = []
        tracemalloc.start()
        try:
            # Two rounds to fill what is kept once, such as the connection's own tables.
            for _ in range(2 + 4):
                await cancel_many(server, 500)
                await until(lambda: len(asyncio.all_tasks()) <= tasks_before + 2)
                server.servicer.runs.clear()
                server.events.clear()
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        # Tables grow and shrink, by many kilobytes. A call, a task or a context that is kept for
        # each call that was admitted shows in every round, by ten times as much.
        growth = [after - before for before, after in pairwise(sizes[1:])]
        assert min(growth) < 500 * 16, sizes
        assert sizes[-1] - sizes[1] < 2000 * 100, sizes
        assert server.limits.unary.in_flight == 0
        server.servicer.behave = failing()
        await get(server)
