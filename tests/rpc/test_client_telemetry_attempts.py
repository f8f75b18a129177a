"""What is seen of a call's attempts, and what its server is told."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, TraceFlags
from rpc.client_bench import AT_ONCE
from rpc.scripted_service import HANG, Refusal, Served, reason, serving

from fakes.telemetry import Seen
from harness import until
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client import ORDER_CONTRACT, BreakerOptions, OrderClient, Unavailable, open_channel
from orderflow_client.resilience.hedge import HedgePolicy
from orderflow_client.telemetry import ClientTelemetry

SERVICE = "orderflow.v1.OrderService"
GET = f"/{SERVICE}/GetOrder"
CANCEL = f"/{SERVICE}/CancelOrder"
AWAY = Refusal(
    grpc.StatusCode.UNAVAILABLE, "the card canary-4242", [reason("STORE_AWAY", card="canary-4242")]
)

NO_HEDGING = {
    path: dataclasses.replace(method, hedging=None) for path, method in ORDER_CONTRACT.items()
}
HEDGED = {
    GET: dataclasses.replace(
        ORDER_CONTRACT[GET], retry=None, hedging=HedgePolicy(max_attempts=2, delay_s=0.02)
    )
}


def telemetry(seen: Seen) -> ClientTelemetry:
    return ClientTelemetry(tracer_provider=seen.tracer_provider, registry=seen.registry)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
async def client(served: Served, seen: Seen) -> AsyncIterator[OrderClient]:
    async with OrderClient(served.target, telemetry=telemetry(seen)) as client:
        yield client


def stub(channel: grpc.aio.Channel) -> order_service_pb2_grpc.OrderServiceAsyncStub:
    made: order_service_pb2_grpc.OrderServiceAsyncStub = order_service_pb2_grpc.OrderServiceStub(
        channel
    )
    return made


def attributes(span: ReadableSpan, *names: str) -> list[Any]:
    """What a span says under each of the names; None where it says nothing."""
    return [(span.attributes or {}).get(name) for name in names]


def about_attempts(spans: list[ReadableSpan]) -> list[list[Any]]:
    names = ("attempt", "attempt.hedge", "attempt.delay_ms", "breaker.state")
    return [
        attributes(span, "rpc.grpc.status_code", *(f"orderflow.{name}" for name in names))
        for span in spans
    ]


def traceparent(span: ReadableSpan) -> str:
    identity = span.context
    return f"00-{identity.trace_id:032x}-{identity.span_id:016x}-{identity.trace_flags:02x}"


def told(metadata: Mapping[str, str | bytes]) -> str | bytes:
    return metadata["traceparent"]


class TestPropagation:
    async def test_the_servers_span_is_to_be_the_child_of_the_attempt(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        served.orders.will("CancelOrder", AWAY)
        await client.cancel_order("o")
        attempts = seen.named(f"{SERVICE}/CancelOrder attempt")
        assert [told(each.metadata) for each in served.orders.received] == [
            traceparent(span) for span in attempts
        ]
        assert len(attempts) == 2

    async def test_so_is_that_of_a_stream(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        served.orders.will("WatchOrder", [pb.WatchOrderResponse()])
        assert len([order async for order in client.watch_order("o")]) == 1
        [attempt] = seen.named(f"{SERVICE}/WatchOrder attempt")
        assert told(served.orders.received[0].metadata) == traceparent(attempt)

    async def test_replaces_what_the_caller_propagates(self, served: Served, seen: Seen) -> None:
        async with open_channel(
            served.target, contract=NO_HEDGING, telemetry=telemetry(seen)
        ) as channel:
            metadata = grpc.aio.Metadata(("traceparent", "of another"), ("x-mine", "kept"))
            await stub(channel).GetOrder(pb.GetOrderRequest(order_id="o"), metadata=metadata)
        [attempt] = seen.named(f"{SERVICE}/GetOrder attempt")
        [received] = served.orders.received
        assert told(received.metadata) == traceparent(attempt)
        assert received.metadata["x-mine"] == "kept"
        assert metadata["traceparent"] == "of another"

    async def test_a_call_is_a_child_of_its_caller_and_the_parent_of_its_attempts(
        self, seen: Seen, client: OrderClient
    ) -> None:
        tracer = seen.tracer_provider.get_tracer("tests")
        with tracer.start_as_current_span("caller") as caller:
            await client.get_order("o")
            assert trace.get_current_span() is caller
        [call] = seen.named(f"{SERVICE}/GetOrder")
        [attempt] = seen.named(f"{SERVICE}/GetOrder attempt")
        assert call.parent == caller.get_span_context()
        assert attempt.parent == call.context
        assert (call.kind, attempt.kind) == (SpanKind.CLIENT, SpanKind.CLIENT)
        assert attributes(call, "rpc.system", "rpc.service", "rpc.method") == [
            *("grpc", SERVICE, "GetOrder")
        ]

    async def test_calls_side_by_side_do_not_mix(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        tracer = seen.tracer_provider.get_tracer("tests")
        served.orders.will("CancelOrder", AWAY, AWAY, AWAY)

        async def calls(order_id: str) -> None:
            with tracer.start_as_current_span("caller", attributes={"order": order_id}):
                await client.cancel_order(order_id)
                async for _ in client.watch_order(order_id):
                    pass

        await asyncio.gather(*(calls(str(number)) for number in range(100)))
        by_id = {span.context.span_id: span for span in seen.spans}
        for name in ("CancelOrder", "WatchOrder"):
            for received in served.orders.attempts(name):
                _, trace_id, attempt_id, _ = str(told(received.metadata)).split("-")
                attempt = by_id[int(attempt_id, 16)]
                assert attempt.name == f"{SERVICE}/{name} attempt"
                assert attempt.parent is not None
                call = by_id[attempt.parent.span_id]
                assert call.name == f"{SERVICE}/{name}"
                assert call.parent is not None
                caller = by_id[call.parent.span_id]
                assert attributes(caller, "order") == [received.request.order_id]
                assert f"{caller.context.trace_id:032x}" == trace_id
        assert len(seen.named(f"{SERVICE}/CancelOrder attempt")) == 103
        assert len(seen.named(f"{SERVICE}/WatchOrder attempt")) == 100


class TestRetries:
    async def test_are_attempts_with_a_number_and_a_delay(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        pushed_back = dataclasses.replace(AWAY, trailing={"grpc-retry-pushback-ms": "30"})
        served.orders.will("CancelOrder", pushed_back, AWAY)
        await client.cancel_order("o")
        first, second, third = about_attempts(seen.named(f"{SERVICE}/CancelOrder attempt"))
        assert first == [14, 1, False, None, "closed"]
        assert second == [14, 2, False, 30, "closed"]
        assert third == [0, 3, False, pytest.approx(10, abs=2), "closed"]

    async def test_are_events_of_the_call(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        served.orders.will("CancelOrder", AWAY)
        await client.cancel_order("o")
        [call] = seen.named(f"{SERVICE}/CancelOrder")
        [event] = call.events
        assert event.name == "retry scheduled"
        assert event.attributes == {
            "orderflow.attempt": 1,
            "orderflow.attempt.delay_ms": pytest.approx(10, abs=2),
            "orderflow.cause": "UNAVAILABLE STORE_AWAY",
        }

    async def test_are_counted_and_make_the_success_a_warning(
        self, served: Served, seen: Seen, client: OrderClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        served.orders.will("CancelOrder", AWAY)
        await client.cancel_order("o")
        method = {"grpc_service": SERVICE, "grpc_method": "CancelOrder"}
        assert seen.sample("orderflow_retries_total", **method) == 1
        attempts = "grpc_client_attempts_total"
        assert seen.sample(attempts, grpc_code="UNAVAILABLE", **method) == 1
        assert seen.sample(attempts, grpc_code="OK", **method) == 1
        assert seen.sample("orderflow_retry_budget_tokens", target=served.target) == 9.1
        line: Any = caplog.records[-1]
        assert (line.levelno, line.code, line.attempts) == (logging.WARNING, "OK", 2)

    async def test_that_are_not_waited_for_end_the_call_as_cancelled(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        pushed_back = dataclasses.replace(AWAY, trailing={"grpc-retry-pushback-ms": "5000"})
        served.orders.will("CancelOrder", pushed_back)
        waiting = asyncio.create_task(client.cancel_order("o"))
        await until(lambda: seen.named(f"{SERVICE}/CancelOrder attempt"))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        [call] = seen.named(f"{SERVICE}/CancelOrder")
        assert call.status.description == "CANCELLED"

    async def test_keep_what_the_server_says_to_themselves(
        self, served: Served, seen: Seen, client: OrderClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        served.orders.will("CancelOrder", *[AWAY] * 5)
        with pytest.raises(Unavailable, match="canary-4242"):
            await client.cancel_order("o")
        assert len(seen.spans) == 6
        assert "canary-4242" not in "".join(span.to_json() for span in seen.spans)
        assert [line for line in caplog.records if "canary-4242" in str(vars(line))] == []
        [line] = [line for line in caplog.records if line.name == "orderflow_client.calls"]
        assert line.getMessage() == (f"{SERVICE}/CancelOrder ended with UNAVAILABLE STORE_AWAY")


async def test_a_hedge_is_told_from_the_attempt_that_it_races(served: Served, seen: Seen) -> None:
    served.orders.will("GetOrder", HANG)
    async with open_channel(served.target, contract=HEDGED, telemetry=telemetry(seen)) as channel:
        await stub(channel).GetOrder(pb.GetOrderRequest(order_id="o"))
    attempts = about_attempts(seen.named(f"{SERVICE}/GetOrder attempt"))
    assert attempts == [[0, 2, True, None, "closed"], [1, 1, False, None, "closed"]]
    [call] = seen.named(f"{SERVICE}/GetOrder")
    assert [(event.name, event.attributes) for event in call.events] == [
        ("hedge started", {"orderflow.attempt": 2})
    ]
    method = {"grpc_service": SERVICE, "grpc_method": "GetOrder"}
    assert seen.sample("orderflow_hedges_total", **method) == 1
    assert seen.sample("grpc_client_attempts_total", grpc_code="CANCELLED", **method) == 1
    assert (
        seen.sample("grpc_client_handled_total", grpc_type="unary", grpc_code="OK", **method) == 1
    )


async def test_a_failure_that_starts_a_hedge_is_told(served: Served, seen: Seen) -> None:
    served.orders.will("GetOrder", AWAY)
    async with open_channel(served.target, contract=HEDGED, telemetry=telemetry(seen)) as channel:
        await stub(channel).GetOrder(pb.GetOrderRequest(order_id="o"))
    [call] = seen.named(f"{SERVICE}/GetOrder")
    assert [dict(event.attributes or {}) for event in call.events] == [
        {"orderflow.attempt": 2, "orderflow.cause": "UNAVAILABLE STORE_AWAY"}
    ]


class TestBreaker:
    def states(self, seen: Seen, served: Served, metric: str) -> dict[str, float]:
        return {
            state: seen.sample(metric, breaker=f"{served.target}/{SERVICE}", state=state)
            for state in ("closed", "open", "half_open")
        }

    async def test_is_closed_until_it_opens(self, served: Served, seen: Seen) -> None:
        async with open_channel(
            served.target, contract=NO_HEDGING, telemetry=telemetry(seen), breaker=AT_ONCE
        ) as channel:
            state = "orderflow_breaker_state"
            assert self.states(seen, served, state) == {"closed": 1, "open": 0, "half_open": 0}
            served.orders.will("GetOrder", AWAY)
            assert await stub(channel).GetOrder(pb.GetOrderRequest()).code() is AWAY.code
            assert self.states(seen, served, state) == {"closed": 0, "open": 1, "half_open": 0}
            transitions = "orderflow_breaker_transitions_total"
            assert self.states(seen, served, transitions) == {
                "closed": 0,
                "open": 1,
                "half_open": 0,
            }

    async def test_says_that_an_attempt_is_its_probe(self, served: Served, seen: Seen) -> None:
        breaker = BreakerOptions(minimum_attempts=1, failure_ratio=1.0, open_s=0.01)
        contract = {
            path: dataclasses.replace(method, retry=None) for path, method in NO_HEDGING.items()
        }
        async with open_channel(
            served.target, contract=contract, telemetry=telemetry(seen), breaker=breaker
        ) as channel:
            served.orders.will("GetOrder", AWAY)
            call = stub(channel).GetOrder
            assert await call(pb.GetOrderRequest()).code() is AWAY.code
            async with asyncio.timeout(5):
                while await call(pb.GetOrderRequest()).code() is not grpc.StatusCode.OK:
                    await asyncio.sleep(0.001)
            await call(pb.GetOrderRequest())
        attempts = seen.named(f"{SERVICE}/GetOrder attempt")
        assert [attributes(span, "orderflow.breaker.state") for span in attempts] == [
            ["closed"],
            ["half_open"],
            ["closed"],
        ]


class TestSampling:
    def exemplars(self, seen: Seen) -> set[str]:
        return {
            sample.exemplar.labels["trace_id"]
            for metric in seen.registry.collect()
            for sample in metric.samples
            if sample.exemplar
        }

    async def test_a_call_that_is_kept_is_an_example_of_its_duration(
        self, seen: Seen, client: OrderClient
    ) -> None:
        await client.get_order("o")
        [call] = seen.named(f"{SERVICE}/GetOrder")
        assert self.exemplars(seen) == {f"{call.context.trace_id:032x}"}

    async def test_one_that_is_not_has_an_id_all_the_same(
        self, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "orderflow_client.calls")
        seen = Seen(sampler=ALWAYS_OFF)
        async with OrderClient(served.target, telemetry=telemetry(seen)) as client:
            await client.get_order("o")
        [line] = [line for line in caplog.records if line.name == "orderflow_client.calls"]
        fields: Any = line
        [received] = served.orders.received
        _, *ids, flags = str(told(received.metadata)).split("-")
        assert ids == [fields.trace_id, fields.span_id]
        assert int(flags, 16) & TraceFlags.SAMPLED == 0
        assert seen.spans == ()
        assert self.exemplars(seen) == set()
        method = {"grpc_service": SERVICE, "grpc_method": "GetOrder"}
        assert seen.sample("grpc_client_attempts_total", grpc_code="OK", **method) == 1


class TestWhatIsSeen:
    async def test_what_the_contract_does_not_know_as_well(
        self, seen: Seen, client: OrderClient
    ) -> None:
        assert await client.health() == "SERVING"
        [call] = seen.named("grpc.health.v1.Health/Check")
        [attempt] = seen.named("grpc.health.v1.Health/Check attempt")
        assert attributes(call, "rpc.grpc.status_code") == [0]
        assert attributes(attempt, "orderflow.breaker.state") == [None]

    async def test_nothing_of_a_call_that_asks_not_to_be(
        self, served: Served, seen: Seen, client: OrderClient
    ) -> None:
        with suppress_instrumentation():
            await client.get_order("o")
            assert [order async for order in client.watch_order("o")] == []
        assert "traceparent" not in served.orders.received[0].metadata
        assert seen.spans == ()

    async def test_the_calls_of_several_channels(self, served: Served, seen: Seen) -> None:
        both = telemetry(seen)
        async with (
            OrderClient(served.target, telemetry=both) as one,
            OrderClient(served.target, telemetry=both) as other,
        ):
            await one.get_order("o")
            await other.get_order("o")
        method = {"grpc_type": "unary", "grpc_service": SERVICE, "grpc_method": "GetOrder"}
        assert seen.sample("grpc_client_started_total", **method) == 2
        assert seen.sample("grpc_client_handled_total", grpc_code="OK", **method) == 2
