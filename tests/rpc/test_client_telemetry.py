"""However a call ends, its span, its metrics and its log line tell what the caller saw."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from rpc.byte_service import ARITIES, Arity, ByteService, contract, serving_bytes
from rpc.client_bench import AT_ONCE, connected

from fakes.telemetry import Seen
from orderflow_client.channel import open_channel
from orderflow_client.status import details_of
from orderflow_client.telemetry import ClientTelemetry

every_arity = pytest.mark.parametrize("arity", ARITIES, ids=lambda arity: arity.name)
every_response_stream = pytest.mark.parametrize(
    "arity", [arity for arity in ARITIES if arity.response_streaming], ids=lambda arity: arity.name
)

TYPES = {
    "UnaryUnary": "unary",
    "UnaryStream": "server_stream",
    "StreamUnary": "client_stream",
    "StreamStream": "bidi_stream",
}


class Bench:
    def __init__(self, service: ByteService, target: str, logs: pytest.LogCaptureFixture) -> None:
        self.service = service
        self.seen = Seen()
        self.channel = open_channel(
            target,
            contract=contract(),
            telemetry=ClientTelemetry(
                tracer_provider=self.seen.tracer_provider, registry=self.seen.registry
            ),
            breaker=AT_ONCE,
        )
        self._logs = logs

    def calls(self, arity: Arity) -> list[ReadableSpan]:
        return self.seen.named(f"bytes.Service/{arity.name}")

    def attempts(self, arity: Arity) -> list[ReadableSpan]:
        return self.seen.named(f"bytes.Service/{arity.name} attempt")

    @property
    def lines(self) -> list[Any]:
        return [each for each in self._logs.records if each.name == "orderflow_client.calls"]

    def counted(self, name: str, arity: Arity, **labels: str) -> Mapping[str, float]:
        """The values of a metric of the method that are not 0, by status."""
        labels |= {"grpc_service": "bytes.Service", "grpc_method": arity.name}
        values = {
            code.name: self.seen.sample(name, grpc_code=code.name, **labels)
            for code in grpc.StatusCode
        }
        return {code: value for code, value in values.items() if value}

    def agree(self, arity: Arity, *endings: str, attempts: tuple[str, ...]) -> bool:
        """Whether everything says that the calls and their attempts ended so, in that order.

        Args:
            arity: The only one that was called.
            endings: Code and reason of each call.
            attempts: Code and reason of each attempt.
        """
        codes = [ending.split()[0] for ending in endings]
        grpc_type = TYPES[arity.name]
        handled = self.counted("grpc_client_handled_total", arity, grpc_type=grpc_type)
        durations = self.seen.sample(
            "grpc_client_handling_seconds_count",
            grpc_type=grpc_type,
            grpc_service="bytes.Service",
            grpc_method=arity.name,
        )
        attempted = self.counted("grpc_client_attempts_total", arity)
        assert [told(span) for span in self.calls(arity)] == list(endings)
        assert [told(span) for span in self.attempts(arity)] == list(attempts)
        assert handled == Counter(codes)
        assert durations == len(codes)
        assert attempted == Counter(ending.split()[0] for ending in attempts)
        assert [line_told(line) for line in self.lines] == list(endings)
        assert [line.trace_id for line in self.lines] == [
            f"{span.context.trace_id:032x}" for span in self.calls(arity)
        ]
        return True


def told(span: ReadableSpan) -> str:
    """Code and reason, which its status and its attributes agree on."""
    assert span.attributes is not None
    number = span.attributes["rpc.grpc.status_code"]
    [code] = [code for code in grpc.StatusCode if code.value[0] == number]
    if code is grpc.StatusCode.OK:
        assert span.status.is_unset
        return "OK"
    assert not span.status.is_ok
    assert span.status.description is not None
    why = span.attributes.get("orderflow.reason") or span.attributes.get("error.type")
    assert span.status.description == " ".join([code.name, *([str(why)] if why else [])])
    return span.status.description


def line_told(line: Any) -> str:
    """Code and reason."""
    why = getattr(line, "reason", None) or getattr(line, "error_type", None)
    return " ".join([line.code, *([why] if why else [])])


@pytest.fixture
async def bench(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Bench]:
    caplog.set_level(logging.DEBUG, "orderflow_client.calls")
    async with serving_bytes() as (service, target):
        bench = Bench(service, target, caplog)
        async with connected(bench.channel):
            yield bench


async def outcome(arity: Arity, call: Any) -> str:
    """What the caller sees."""
    try:
        await arity.responses(call)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {details_of(error).reason}".rstrip()
    return "OK"


class TestSpanMetricAndLineAgree:
    @pytest.mark.parametrize("command", [b"echo", b"fail", b"late echo", b"late fail"])
    @every_arity
    async def test_on_what_the_server_answers(
        self, bench: Bench, arity: Arity, command: bytes
    ) -> None:
        ending = await outcome(arity, arity.call(bench.channel, command))
        assert ending == ("UNAVAILABLE" if command.endswith(b"fail") else "OK")
        assert bench.agree(arity, ending, attempts=(ending,))

    @every_arity
    async def test_on_a_status_that_is_all_that_the_caller_asks_for(
        self, bench: Bench, arity: Arity
    ) -> None:
        call = arity.call(bench.channel, b"fail")
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert bench.agree(arity, "UNAVAILABLE", attempts=("UNAVAILABLE",))

    @every_arity
    async def test_on_a_deadline(self, bench: Bench, arity: Arity) -> None:
        ending = await outcome(arity, arity.call(bench.channel, b"hang", timeout=0.2))
        assert bench.agree(arity, "DEADLINE_EXCEEDED", attempts=(ending,))

    @every_arity
    async def test_on_a_deadline_that_has_passed_before(self, bench: Bench, arity: Arity) -> None:
        assert await outcome(arity, arity.call(bench.channel, b"echo", timeout=0)) == (
            "DEADLINE_EXCEEDED"
        )
        assert bench.agree(arity, "DEADLINE_EXCEEDED", attempts=())

    @every_arity
    async def test_on_a_refusal_of_the_breaker(self, bench: Bench, arity: Arity) -> None:
        await outcome(arity, arity.call(bench.channel, b"fail"))
        ending = await outcome(arity, arity.call(bench.channel, b"echo"))
        assert ending == "UNAVAILABLE BREAKER_OPEN"
        assert bench.agree(arity, "UNAVAILABLE", ending, attempts=("UNAVAILABLE",))

    @every_arity
    async def test_on_a_call_that_is_cancelled(self, bench: Bench, arity: Arity) -> None:
        call = arity.call(bench.channel, b"hang")
        waiting = asyncio.ensure_future(arity.responses(call))
        await bench.service.hanging.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))

    @every_arity
    async def test_on_a_caller_that_is_cancelled(self, bench: Bench, arity: Arity) -> None:
        async def calls() -> None:
            await arity.responses(arity.call(bench.channel, b"late hang"))

        waiting = asyncio.create_task(calls())
        await bench.service.hanging.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))

    @every_arity
    async def test_on_a_caller_that_runs_out_of_patience(self, bench: Bench, arity: Arity) -> None:
        async def calls() -> None:
            async with asyncio.timeout(None) as patience:
                loop = asyncio.get_running_loop()
                losing_it = asyncio.create_task(bench.service.hanging.wait())
                losing_it.add_done_callback(lambda _: patience.reschedule(loop.time()))
                await arity.responses(arity.call(bench.channel, b"hang"))

        with pytest.raises(TimeoutError):
            await calls()
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))

    @every_arity
    async def test_on_a_channel_that_is_closed_meanwhile(self, bench: Bench, arity: Arity) -> None:
        waiting = asyncio.ensure_future(arity.responses(arity.call(bench.channel, b"hang")))
        await bench.service.hanging.wait()
        await bench.channel.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))

    @every_arity
    async def test_on_a_channel_that_is_closed_already(self, bench: Bench, arity: Arity) -> None:
        await bench.channel.close()
        with pytest.raises(grpc.aio.UsageError):
            await arity.responses(arity.call(bench.channel, b"echo"))
        assert bench.agree(arity, "INTERNAL UsageError", attempts=("INTERNAL UsageError",))

    @every_arity
    async def test_on_metadata_that_cannot_be_sent(self, bench: Bench, arity: Arity) -> None:
        async def calls() -> None:
            metadata: Any = (("number", 5),)
            with pytest.raises(TypeError):
                await arity.responses(arity.call(bench.channel, b"echo", metadata=metadata))

        await calls()
        ending = "INTERNAL TypeError"
        if arity.request_streaming or arity.response_streaming:
            # To gRPC it has not even begun, and it ends when it is cancelled: with its reader, or
            # else with the channel.
            ending = "CANCELLED"
            if not arity.response_streaming:
                await bench.channel.close()
        assert bench.agree(arity, ending, attempts=(ending,))

    @pytest.mark.parametrize("command", [b"hang", b"late hang"])
    @every_response_stream
    async def test_on_a_stream_that_is_forgotten(
        self, bench: Bench, arity: Arity, command: bytes
    ) -> None:
        async def forgets() -> None:
            call = arity.call(bench.channel, command)
            if command == b"late hang":
                async for _ in call:
                    break
            await bench.service.hanging.wait()

        await forgets()
        gc.collect()
        await bench.service.hung_up.wait()
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))

    @every_response_stream
    async def test_on_a_stream_that_is_left_half_read(self, bench: Bench, arity: Arity) -> None:
        call = arity.call(bench.channel, b"late hang")
        assert await call.read() == b"first"
        assert bench.calls(arity) == []
        call.cancel()
        assert bench.agree(arity, "CANCELLED", attempts=("CANCELLED",))
