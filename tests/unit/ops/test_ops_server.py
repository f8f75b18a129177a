from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import ClientResponse, ClientSession
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from orderflow_server.ops.server import OpsAddressUnavailable, ops_server

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
# What Prometheus sends.
PROMETHEUS = (
    f"{OPENMETRICS},{OPENMETRICS.replace('1.0', '0.0')};q=0.8,text/plain;version=0.0.4;q=0.5"
)


@dataclass
class Ops:
    """A running port and a way to ask it."""

    http: ClientSession
    address: str = ""
    serving: bool = True
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    async def ask(self, method: str, path: str, accept: str = "*/*") -> tuple[ClientResponse, str]:
        url = f"http://{self.address}{path}"
        async with self.http.request(method, url, headers={"Accept": accept}) as response:
            return response, await response.text()

    async def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        response, text = await self.ask("GET", path, accept)
        return response.status, text


@asynccontextmanager
async def running_ops() -> AsyncIterator[Ops]:
    async with ClientSession() as http:
        it = Ops(http)
        async with ops_server(
            "127.0.0.1:0", registry=it.registry, ready=lambda: it.serving
        ) as it.address:
            yield it


@pytest.fixture
async def ops() -> AsyncIterator[Ops]:
    async with running_ops() as running:
        yield running


def observe_a_call(registry: CollectorRegistry) -> None:
    histogram = Histogram("seconds", "How long.", buckets=[1], registry=registry)
    histogram.observe(0.5, {"trace_id": TRACE_ID})


# Metrics


async def test_metrics_are_text_unless_more_is_asked_for(ops: Ops) -> None:
    Counter("calls", "How many.", registry=ops.registry).inc(3)
    response, text = await ops.ask("GET", "/metrics")
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert text == "# HELP calls_total How many.\n# TYPE calls_total counter\ncalls_total 3.0\n"


@pytest.mark.parametrize("accept", [OPENMETRICS, PROMETHEUS])
async def test_who_asks_for_openmetrics_gets_it_with_examples_of_traces(
    ops: Ops, accept: str
) -> None:
    observe_a_call(ops.registry)
    response, text = await ops.ask("GET", "/metrics", accept)
    assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0")
    assert f'seconds_bucket{{le="1.0"}} 1.0 # {{trace_id="{TRACE_ID}"}} 0.5' in text
    assert text.endswith("# EOF\n")


async def test_text_has_no_examples_which_it_has_no_form_for(ops: Ops) -> None:
    observe_a_call(ops.registry)
    _, text = await ops.get("/metrics")
    assert 'seconds_bucket{le="1.0"} 1.0\n' in text


@pytest.mark.parametrize("accept", ["*/*", OPENMETRICS])
async def test_when_a_metric_was_made_is_not_told(ops: Ops, accept: str) -> None:
    observe_a_call(ops.registry)
    Counter("calls", "How many.", registry=ops.registry)
    _, text = await ops.get("/metrics", accept)
    assert "calls_total" in text
    assert "_created" not in text


async def test_metrics_are_as_they_are_now(ops: Ops) -> None:
    counter = Counter("calls", "How many.", registry=ops.registry)
    for expected in ("0.0", "1.0", "2.0"):
        assert f"calls_total {expected}\n" in (await ops.get("/metrics"))[1]
        counter.inc()


@pytest.mark.parametrize(
    "accept",
    ["text/plain;version=abc", "application/openmetrics-text;version=x.y", ";;=,,", "x" * 99],
)
async def test_a_header_that_makes_no_sense_is_no_failure_of_ours(ops: Ops, accept: str) -> None:
    status, _ = await ops.get("/metrics", accept)
    assert status in {200, 406}


async def test_a_metric_that_fails_fails_the_scrape_and_not_the_port(ops: Ops) -> None:
    gauge = Gauge("broken", "Cannot be read.", registry=ops.registry)
    gauge.set_function(lambda: 1 / 0)
    assert (await ops.get("/metrics"))[0] == 500
    gauge.set_function(lambda: 1)
    assert (await ops.get("/metrics"))[0] == 200


# Health


async def test_it_lives_whether_or_not_it_serves(ops: Ops) -> None:
    for ops.serving in (True, False):
        assert await ops.get("/livez") == (200, "ok\n")


async def test_it_is_ready_while_health_says_serving(ops: Ops) -> None:
    assert await ops.get("/readyz") == (200, "SERVING\n")
    ops.serving = False
    status, text = await ops.get("/readyz")
    assert (status, text.split(":")[0]) == (503, "NOT_SERVING")
    ops.serving = True
    assert await ops.get("/readyz") == (200, "SERVING\n")


# HTTP


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
async def test_head_answers_as_get_does_without_the_body(ops: Ops, path: str) -> None:
    observe_a_call(ops.registry)
    head, body = await ops.ask("HEAD", path)
    get, text = await ops.ask("GET", path)
    assert body == ""
    assert head.status == get.status == 200
    for header in ("Content-Type", "Content-Length"):
        assert head.headers[header] == get.headers[header]
    assert head.headers["Content-Length"] == str(len(text))


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/x", "/admin", "/livez/../metricsx"])
async def test_there_is_nothing_else(ops: Ops, path: str) -> None:
    assert (await ops.get(path))[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed_through_it(ops: Ops, method: str) -> None:
    response, _ = await ops.ask(method, "/metrics")
    assert response.status == 405


@pytest.mark.parametrize(("method", "path"), [("GET", "/livez"), ("GET", "/no"), ("PUT", "/livez")])
async def test_answers_do_not_say_what_runs_here(ops: Ops, method: str, path: str) -> None:
    response, text = await ops.ask(method, path)
    assert "Server" not in response.headers
    assert "aiohttp" not in text


async def test_being_asked_writes_no_log_lines(ops: Ops, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        for path in ("/metrics", "/livez", "/readyz", "/no"):
            await ops.get(path)
    assert caplog.records == []


# Start and stop


async def test_port_0_takes_a_free_one_and_says_which(ops: Ops) -> None:
    host, _, port = ops.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


async def test_an_address_of_ipv6_keeps_its_brackets() -> None:
    async with (
        ops_server("[::1]:0", registry=CollectorRegistry(), ready=lambda: True) as address,
        ClientSession() as http,
        http.get(f"http://{address}/livez") as response,
    ):
        assert address.startswith("[::1]:")
        assert response.status == 200


async def test_a_port_that_is_taken_is_told_at_once(ops: Ops) -> None:
    with pytest.raises(OpsAddressUnavailable, match=f"cannot answer on {ops.address}"):
        async with ops_server(ops.address, registry=ops.registry, ready=lambda: True):
            pass
    assert await ops.get("/livez") == (200, "ok\n")


@pytest.mark.parametrize("address", ["", "here", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
async def test_what_is_no_address_is_told_at_once(address: str) -> None:
    with pytest.raises(OpsAddressUnavailable, match=f"cannot answer on {address}"):
        async with ops_server(address, registry=CollectorRegistry(), ready=lambda: True):
            pass


async def test_it_ends_though_a_connection_is_kept_open() -> None:
    async with running_ops() as ops:
        _, port = ops.address.split(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        writer.write(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert (await reader.read()).endswith(b"ok\n"), "the connection has ended"
    with pytest.raises(OSError, match=port):
        await asyncio.open_connection("127.0.0.1", int(port))
    writer.close()


async def test_the_port_is_free_again_afterwards() -> None:
    async with running_ops() as ops:
        address = ops.address
    async with ops_server(address, registry=CollectorRegistry(), ready=lambda: True) as again:
        assert again == address
