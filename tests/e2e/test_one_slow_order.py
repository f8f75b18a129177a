"""From the trace id of one slow order: its log lines, its example in the metrics, and its spans."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from fakes.otlp_receiver import OtlpReceiver, plain
from harness import until
from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, item, money
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, server_process

CREATE = "orderflow.v1.OrderService/CreateOrder"
CHARGE = "orderflow.payments.v1.PaymentGateway/Charge"
SLOW_MS = 100


async def test_from_one_signal_to_the_others(tmp_path: Path) -> None:
    # With this seed the gateway fails the first attempt and serves the second, slowly.
    faults = Faults(error_rate=0.5, latency_median_s=SLOW_MS / 1000 * 2)
    async with OtlpReceiver() as collector, PaymentSimulator(seed=4, faults=faults) as gateway:
        async with (
            server_process(
                tmp_path,
                arguments=["--gateway", gateway.target],
                environment={
                    "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                    "OTEL_LOGS_EXPORTER": "otlp",
                    "ORDERFLOW_SLOW_CALL_S": str(SLOW_MS / 1000),
                },
            ) as server,
            OrderClient(server.address) as client,
        ):
            order = await client.create_order(
                customer_id="alice",
                items=[item("BOOK-1", 1, money("12.50", "EUR"))],
                payment_token="tok_visa",
            )
            assert order.state == order_pb2.ORDER_STATE_PAID
            line = await slow_line(server)
            trace_id = line["trace_id"]
            metrics = await scraped(server)
            server.process.terminate()
            assert await server.process.wait() == 0
        spans = [span for span in collector.spans if span.trace_id.hex() == trace_id]
        exported = [record for record in collector.records if record.trace_id.hex() == trace_id]

    # The log: the retry and the call itself, all under one trace id, here and at the collector.
    assert line["code"] == "OK"
    assert line["level"] == "warning"
    assert line["latency_ms"] > SLOW_MS
    events = [each["event"] for each in lines(server) if each.get("trace_id") == trace_id]
    assert "attempt failed, retrying" in events
    assert sorted(record.body.string_value for record in exported) == sorted(events)

    # The metrics: an example of a call as slow as this one.
    [example] = re.findall(
        rf"^grpc_server_handling_seconds_bucket{{[^}}]*CreateOrder[^}}]*}} .*{trace_id}.*$",
        metrics,
        flags=re.MULTILINE,
    )
    assert float(re.findall(r"} ([\d.]+)", example)[-1]) > SLOW_MS / 1000

    # The spans, from the call to the wire of the gateway and the disk.
    [call] = named(spans, CREATE)
    assert call.span_id.hex() == line["span_id"]
    [charge] = named(spans, CHARGE)
    attempts = [plain(attempt.attributes) for attempt in named(spans, f"{CHARGE} attempt")]
    assert [each["orderflow.attempt"] for each in attempts] == [1, 2]
    assert attempts[1]["orderflow.attempt.delay_ms"] > 0
    assert {each["orderflow.breaker.state"] for each in attempts} == {"closed"}
    [place], [save] = named(spans, "store.place"), named(spans, "store.save")
    assert {charge.parent_span_id, place.parent_span_id, save.parent_span_id} == {call.span_id}
    batches = named(spans, "store.batch")
    linked = {link.span_id for batch in batches for link in batch.links}
    assert linked == {place.span_id, save.span_id}


def named(spans: list[Span], name: str) -> list[Span]:
    return sorted(
        (span for span in spans if span.name == name), key=lambda span: span.start_time_unix_nano
    )


def lines(server: ServerProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.stdout.splitlines()]


async def slow_line(server: ServerProcess) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        return [line for line in lines(server) if line["event"] == "slow call"]

    await until(found)
    [line] = found()
    return line


async def scraped(server: ServerProcess) -> str:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(f"http://{server.ops_address}/metrics", headers=accept) as response,
    ):
        return await response.text()
