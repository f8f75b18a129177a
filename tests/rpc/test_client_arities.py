"""Deadline and breaker around calls of all four arities, which stay the calls they were."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from rpc.byte_service import ARITIES, Arity, ByteService, contract, serving_bytes
from rpc.client_bench import ClientBench, connected

from orderflow_client import guarded_stream
from orderflow_client.interceptors import UnaryStreamPolicies
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.status import details_of

UNARY_UNARY, UNARY_STREAM, STREAM_UNARY, STREAM_STREAM = ARITIES
every_arity = pytest.mark.parametrize("arity", ARITIES, ids=lambda arity: arity.name)
every_response_stream = pytest.mark.parametrize(
    "arity", [UNARY_STREAM, STREAM_STREAM], ids=lambda arity: arity.name
)
every_request_stream = pytest.mark.parametrize(
    "arity", [STREAM_UNARY, STREAM_STREAM], ids=lambda arity: arity.name
)


class Bench(ClientBench):
    def __init__(self, service: ByteService, target: str) -> None:
        super().__init__(target, contract())
        self.service = service
        self.target = target
        self.stock = grpc.aio.insecure_channel(target)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with serving_bytes() as (service, target):
        bench = Bench(service, target)
        async with connected(bench.channel, bench.stock):
            yield bench


async def refused(arity: Arity, bench: Bench) -> bool:
    """Whether the breaker refuses a call, that the service fails otherwise."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await arity.responses(arity.call(bench.channel, b"fail"))
    if details_of(caught.value).reason == "BREAKER_OPEN":
        return True
    assert caught.value.details() == "told to fail"
    return False


class TestIsTheCallItWas:
    async def seen(self, channel: grpc.aio.Channel, arity: Arity, command: bytes) -> list[Any]:
        """All that a caller can learn of a call."""
        seen: list[Any] = []
        call = arity.call(channel, command, timeout=10)
        call.add_done_callback(lambda ended: seen.append(("callback", ended is call)))
        try:
            seen.append(await arity.responses(call))
        except grpc.aio.AioRpcError as error:
            seen += [error.code(), error.details(), error.trailing_metadata()]
        seen += [await call.initial_metadata(), await call.trailing_metadata()]
        seen += [await call.code(), await call.details(), call.done(), call.cancelled()]
        call.add_done_callback(lambda ended: seen.append(("late callback", ended is call)))
        return [*seen, call.cancel()]

    @pytest.mark.parametrize("command", [b"echo", b"late echo", b"fail", b"late fail"])
    @every_arity
    async def test_to_who_waits_for_the_answer(
        self, bench: Bench, arity: Arity, command: bytes
    ) -> None:
        ours = await self.seen(bench.channel, arity, command)
        assert ours == await self.seen(bench.stock, arity, command)

    @every_response_stream
    async def test_to_who_reads(self, bench: Bench, arity: Arity) -> None:
        async def reads(channel: grpc.aio.Channel) -> list[Any]:
            call = arity.call(channel, b"late echo")
            return [await call.read() for _ in range(5)]

        eof = grpc.aio.EOF
        assert await reads(bench.stock) == [b"first", b"late echo", b"late echo", eof, eof]
        assert await reads(bench.channel) == [b"first", b"late echo", b"late echo", eof, eof]

    @every_request_stream
    async def test_to_who_writes(self, bench: Bench, arity: Arity) -> None:
        call: Any = getattr(
            bench.channel, "stream_stream" if arity.response_streaming else "stream_unary"
        )(arity.method)()
        await call.write(b"echo")
        await call.done_writing()
        assert (await arity.responses(call))[0] == b"echo"
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(b"echo")

    @every_arity
    async def test_to_who_cancels(self, bench: Bench, arity: Arity) -> None:
        call = arity.call(bench.channel, b"hang")
        waiting = asyncio.ensure_future(arity.responses(call))
        await bench.service.hanging.wait()
        assert not call.done()
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await bench.service.hung_up.wait()

    @every_arity
    async def test_when_its_channel_is_closed(self, bench: Bench, arity: Arity) -> None:
        call = arity.call(bench.channel, b"hang")
        waiting = asyncio.ensure_future(arity.responses(call))
        await bench.service.hanging.wait()
        await bench.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await bench.service.hung_up.wait()


class TestDeadline:
    @every_arity
    async def test_is_the_methods_own(self, bench: Bench, arity: Arity) -> None:
        await arity.responses(arity.call(bench.channel, b"echo"))
        assert bench.service.timeouts_s == [pytest.approx(20, abs=0.3)]

    @every_arity
    async def test_is_the_callers_otherwise(self, bench: Bench, arity: Arity) -> None:
        await arity.responses(arity.call(bench.channel, b"echo", timeout=40))
        assert bench.service.timeouts_s == [pytest.approx(40, abs=0.5)]

    @every_arity
    async def test_leaves_a_reserve_of_an_ambient_one(self, bench: Bench, arity: Arity) -> None:
        with deadline.within(Deadline.after(1.5, clock=bench.time.clock)):
            call = arity.call(bench.channel, b"echo", timeout=40)
        await arity.responses(call)
        assert bench.service.timeouts_s == [pytest.approx(1, abs=0.3)]

    @every_arity
    async def test_that_has_passed_sends_nothing_and_is_no_failure(
        self, bench: Bench, arity: Arity
    ) -> None:
        call = arity.call(bench.channel, b"echo", timeout=0)
        with pytest.raises(grpc.aio.AioRpcError):
            await arity.responses(call)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert bench.service.timeouts_s == []
        assert bench.breaker_states == []
        assert bench.budget.tokens == 10


class TestBreaker:
    @every_arity
    async def test_opens_when_the_call_fails(self, bench: Bench, arity: Arity) -> None:
        assert not await refused(arity, bench)
        for each in ARITIES:
            assert await refused(each, bench)
        assert len(bench.service.timeouts_s) == 1

    @every_arity
    async def test_tells_it_to_each_way_of_asking(self, bench: Bench, arity: Arity) -> None:
        await refused(arity, bench)
        call = arity.call(bench.channel, b"echo")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert "breaker" in await call.details()
        assert "grpc-status-details-bin" in await call.trailing_metadata()
        assert await call.initial_metadata() == grpc.aio.Metadata()
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()

    @every_arity
    async def test_learns_of_a_failure_that_only_the_status_tells(
        self, bench: Bench, arity: Arity
    ) -> None:
        """Nobody awaits or reads the answer."""
        call = arity.call(bench.channel, b"fail")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert bench.breaker_states == ["open"]

    @every_arity
    async def test_closes_when_the_probe_succeeds(self, bench: Bench, arity: Arity) -> None:
        await refused(arity, bench)
        bench.time.now_s += 5
        await arity.responses(arity.call(bench.channel, b"echo"))
        assert bench.breaker_states == ["open", "half_open", "closed"]

    @every_response_stream
    async def test_closes_with_the_first_message_of_a_stream(
        self, bench: Bench, arity: Arity
    ) -> None:
        await refused(arity, bench)
        bench.time.now_s += 5
        call = arity.call(bench.channel, b"late hang")
        assert await anext(aiter(call)) == b"first"
        assert bench.breaker_states == ["open", "half_open", "closed"]
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert bench.breaker_states == ["open", "half_open", "closed"]

    async def test_closes_as_well_when_another_interceptor_reads(self, bench: Bench) -> None:
        class Reader(grpc.aio.UnaryStreamClientInterceptor):
            async def intercept_unary_stream(
                self, continuation: Any, client_call_details: Any, request: Any
            ) -> Any:
                call = await continuation(client_call_details, request)

                async def messages() -> AsyncIterator[bytes]:
                    while (message := await call.read()) is not grpc.aio.EOF:
                        yield message

                return messages()

        chain = [Reader(), UnaryStreamPolicies(bench.methods)]
        await refused(UNARY_STREAM, bench)
        bench.time.now_s += 5
        async with grpc.aio.insecure_channel(bench.target, interceptors=chain) as channel:
            call = UNARY_STREAM.call(channel, b"late hang")
            assert await anext(aiter(call)) == b"first"
            assert bench.breaker_states == ["open", "half_open", "closed"]
            call.cancel()

    @every_response_stream
    async def test_does_not_mind_what_comes_after_the_first_message(
        self, bench: Bench, arity: Arity
    ) -> None:
        """A watch whose server is restarted was a success."""
        call = arity.call(bench.channel, b"late hang")
        await anext(aiter(call))
        await bench.service.hanging.wait()
        call.cancel()
        assert bench.breaker_states == []

    @every_arity
    async def test_gets_its_permit_back_from_a_cancelled_probe(
        self, bench: Bench, arity: Arity
    ) -> None:
        await refused(arity, bench)
        bench.time.now_s += 5
        call = arity.call(bench.channel, b"hang")
        await bench.service.hanging.wait()
        assert await refused(arity, bench)
        call.cancel()
        await bench.service.hung_up.wait()
        assert bench.breaker_states == ["open", "half_open"]
        await arity.responses(arity.call(bench.channel, b"echo"))
        assert bench.breaker_states == ["open", "half_open", "closed"]

    @every_response_stream
    async def test_gets_its_permit_back_from_a_probe_that_says_nothing(
        self, bench: Bench, arity: Arity, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await refused(arity, bench)
        bench.time.now_s += 5
        with monkeypatch.context() as impatient:
            impatient.setattr(guarded_stream, "PATIENCE_S", 0.05)
            silent = arity.call(bench.channel, b"hang")
            await bench.service.hanging.wait()
        while await refused(arity, bench):  # the last of them is let through, and fails
            await asyncio.sleep(0.01)
        assert bench.breaker_states == ["open", "half_open", "open"]
        assert silent.cancel()

    @pytest.mark.parametrize(
        ("error", "states"),
        [
            (grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE), ["open"]),
            (ValueError(), ["closed"]),
            (asyncio.CancelledError(), ["closed"]),
        ],
    )
    async def test_minds_how_a_stream_fails_to_begin(
        self, bench: Bench, error: BaseException, states: list[str]
    ) -> None:
        """As it may when an interceptor comes after this one."""
        await refused(UNARY_STREAM, bench)
        bench.time.now_s += 5

        async def continuation(*_: object) -> Any:
            raise error

        details = grpc.aio.ClientCallDetails(UNARY_STREAM.method, None, None, None, None)
        with pytest.raises(type(error)):
            await UnaryStreamPolicies(bench.methods).intercept_unary_stream(
                continuation, details, b"echo"
            )
        if states == ["closed"]:  # the permit is back: another may probe
            await UNARY_STREAM.responses(UNARY_STREAM.call(bench.channel, b"echo"))
        assert bench.breaker_states == ["open", "half_open", *states]


class TestLeavesNothingBehind:
    @every_arity
    async def test_after_an_answer_a_failure_and_a_cancellation(
        self, bench: Bench, arity: Arity
    ) -> None:
        await arity.responses(arity.call(bench.stock, b"echo"))
        await arity.responses(arity.call(bench.channel, b"echo"))
        before = len(asyncio.all_tasks())
        await arity.responses(arity.call(bench.channel, b"echo"))
        hanging = arity.call(bench.channel, b"hang")
        await bench.service.hanging.wait()
        hanging.cancel()
        await bench.service.hung_up.wait()
        await refused(arity, bench)
        await refused(arity, bench)
        await settled(before)

    async def test_when_the_callers_task_is_cancelled(self, bench: Bench) -> None:
        for arity in ARITIES:
            await arity.responses(arity.call(bench.channel, b"echo"))
            before = len(asyncio.all_tasks())
            bench.service.hanging.clear()
            bench.service.hung_up.clear()
            caller = asyncio.create_task(self.waits(arity, bench.channel))
            await bench.service.hanging.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            await bench.service.hung_up.wait()
            await settled(before)

    async def waits(self, arity: Arity, channel: grpc.aio.Channel) -> None:
        await arity.responses(arity.call(channel, b"hang"))

    @pytest.mark.parametrize("command", [b"hang", b"late hang"])
    @every_response_stream
    async def test_when_a_stream_is_forgotten(
        self, bench: Bench, arity: Arity, command: bytes
    ) -> None:
        """gRPC's own would go on until its deadline; and so would the probe."""
        await refused(arity, bench)
        bench.time.now_s += 5
        before = len(asyncio.all_tasks())

        async def forgets() -> None:
            call = arity.call(bench.channel, command)
            if command == b"late hang":
                async for _ in call:
                    break
            await bench.service.hanging.wait()

        await forgets()
        gc.collect()
        await bench.service.hung_up.wait()
        await settled(before)
        if command == b"hang":
            assert not await refused(arity, bench)


async def settled(before: int) -> None:
    """Returns when no more tasks than before are left; what has ended takes a few turns to go.

    They are counted, as the server replaces its own that waits for the next call.
    """
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > before:
            await asyncio.sleep(0.001)
