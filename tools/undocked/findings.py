"""Places orders through the edge and looks for what they left behind, wherever that is kept."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp
from undocked.running import Stack

from orderflow_client import OrderClient

ORDERS = 120
"""Of a tenth of their traces the collector keeps none once in 300 000 runs."""
WAIT_S = 60.0
"""How long a finding may take: Prometheus asks every 15 s, and Loki writes when it pleases."""
_POLL_S = 0.5
_CREATE = "orderflow.v1.OrderService/CreateOrder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked for, and what there was.

    Attributes:
        well: Whether it is as it should be. None: what would say so does not run.
    """

    what: str
    seen: str
    well: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The orders, by the ids of the traces that they were placed in."""

    orders: Mapping[str, str]

    @property
    def ids(self) -> set[str]:
        return set(self.orders.values())


async def find_all(
    stack: Stack, http: aiohttp.ClientSession, tell: Callable[[str], None]
) -> list[Finding]:
    """Everything that the running part of the stack can show."""
    edge = f"{stack.addresses['envoy']}:8080"
    placed, placing = await _place(edge, http)
    tell(f"{len(placed.orders)} orders are placed")
    findings = [placing, await _listed(edge, placed)]
    looks: Sequence[tuple[str, str, Callable[..., Awaitable[Finding | None]]]] = (
        ("events", "nats", _events),
        ("metrics", "prometheus", _metrics),
        ("traces", "jaeger", _traces),
        ("log lines", "loki", _lines),
        ("from a metric to a trace", "prometheus", _exemplar),
    )
    for what, service, look in looks:
        if service not in stack.addresses:
            findings.append(Finding(what=what, seen=stack.absent[service], well=None))
            continue
        findings.append(await _awaited(what, look, stack, http, placed))
        tell(f"{what}: {findings[-1].seen}")
    ended = stack.ended()
    seen = f"ended: {', '.join(ended)}" if ended else f"all {len(stack.processes)} still run"
    return [*findings, Finding(what="programs", seen=seen, well=not ended)]


async def _awaited(
    what: str,
    look: Callable[..., Awaitable[Finding | None]],
    stack: Stack,
    http: aiohttp.ClientSession,
    placed: Placed,
) -> Finding:
    """What the look finds in the end."""
    give_up_at_s = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_at_s:
        finding = await look(stack, http, placed)
        if finding is not None:
            return finding
        await asyncio.sleep(_POLL_S)
    return Finding(what=what, seen=f"nothing in {WAIT_S:.0f} s", well=False)


async def _place(edge: str, http: aiohttp.ClientSession) -> tuple[Placed, Finding]:
    """Orders as JSON over HTTP, each in a trace of its own."""
    # Equal ids in each run: which of them the collector keeps is decided by the id.
    random = Random(5)
    began_s = time.perf_counter()
    orders: dict[str, str] = {}
    for _ in range(ORDERS):
        trace_id, span_id = random.randbytes(16).hex(), random.randbytes(8).hex()
        async with http.post(
            f"http://{edge}/v1/orders",
            json=_an_order(),
            headers={"traceparent": f"00-{trace_id}-{span_id}-01"},
        ) as response:
            if response.status != 200:
                said = await response.text()
                return Placed(orders=orders), Finding(
                    what="orders as JSON", seen=f"{response.status}: {said}", well=False
                )
            orders[trace_id] = (await response.json())["order"]["id"]
    rate = ORDERS / (time.perf_counter() - began_s)
    seen = f"{ORDERS} placed at http://{edge}/v1/orders, one after the other, {rate:.0f}/s"
    return Placed(orders=orders), Finding(what="orders as JSON", seen=seen, well=True)


def _an_order() -> dict[str, Any]:
    price = {"currency_code": "EUR", "units": "12", "nanos": 500_000_000}
    return {
        "request_id": str(uuid.uuid4()),
        "customer_id": "alice",
        "items": [{"sku": "BOOK-1", "quantity": 2, "unit_price": price}],
        "payment_token": "tok_visa",
    }


async def _listed(edge: str, placed: Placed) -> Finding:
    """The same orders over gRPC, through the same port."""
    async with OrderClient(edge) as client:
        listed = {order.id async for order in client.list_orders(customer_id="alice")}
    return Finding(
        what="orders by gRPC",
        seen=f"{len(listed & placed.ids)} of {ORDERS} listed at {edge}",
        well=placed.ids <= listed,
    )


async def _events(stack: Stack, http: aiohttp.ClientSession, placed: Placed) -> Finding | None:
    said = await _get(http, f"http://{stack.addresses['nats']}:8222/jsz")
    # At least: placed, and paid or declined.
    if said["messages"] < 2 * len(placed.orders):
        return None
    return Finding(what="events", seen=f"{said['messages']} in NATS JetStream", well=True)


async def _metrics(stack: Stack, http: aiohttp.ClientSession, placed: Placed) -> Finding | None:
    said = await _get(
        http,
        f"http://{stack.addresses['prometheus']}:9090/api/v1/query",
        query="sum by (instance) (grpc_server_handled_total"
        '{grpc_method="CreateOrder", grpc_code="OK"})',
    )
    counts = {
        series["metric"]["instance"]: int(series["value"][1]) for series in said["data"]["result"]
    }
    if sum(counts.values()) < len(placed.orders):
        return None
    shares = " + ".join(f"{count} by {who}" for who, count in sorted(counts.items()))
    return Finding(
        what="metrics", seen=f"CreateOrder in Prometheus: {shares}", well=all(counts.values())
    )


async def _traces(stack: Stack, http: aiohttp.ClientSession, placed: Placed) -> Finding | None:
    """A tenth of them is kept; of those all spans are."""
    said = await _get(
        http,
        f"http://{stack.addresses['jaeger']}:16686/api/traces",
        service="orderflow-server",
        limit="1000",
    )
    spans = {trace["traceID"]: trace["spans"] for trace in said["data"]}
    # Some of a trace's spans may be there before the others.
    ours = {
        trace_id
        for trace_id in spans.keys() & placed.orders.keys()
        if any(span["operationName"] == _CREATE for span in spans[trace_id])
    }
    if not ours:
        return None
    example = min(ours)
    return Finding(
        what="traces",
        seen=f"{len(ours)} of {len(placed.orders)} are in Jaeger; {example} has "
        f"{len(spans[example])} spans",
        well=True,
    )


async def _lines(stack: Stack, http: aiohttp.ClientSession, placed: Placed) -> Finding | None:
    trace_id = min(placed.orders)
    said = await _get(
        http,
        f"http://{stack.addresses['loki']}:3100/loki/api/v1/query_range",
        query=f'{{service_name="orderflow-server"}} | trace_id="{trace_id}"',
        limit="100",
    )
    lines = [line for stream in said["data"]["result"] for _, line in stream["values"]]
    if "call" not in lines:
        return None
    return Finding(what="log lines", seen=f"{len(lines)} of trace {trace_id} in Loki", well=True)


async def _exemplar(stack: Stack, http: aiohttp.ClientSession, placed: Placed) -> Finding | None:
    now = time.time()
    said = await _get(
        http,
        f"http://{stack.addresses['prometheus']}:9090/api/v1/query_exemplars",
        query='grpc_server_handling_seconds_bucket{grpc_method="CreateOrder"}',
        start=f"{now - 600}",
        end=f"{now}",
    )
    traces = {each["labels"]["trace_id"] for one in said["data"] for each in one["exemplars"]}
    ours = traces & placed.orders.keys()
    if not ours:
        return None
    return Finding(
        what="from a metric to a trace",
        seen=f"{len(ours)} of our traces are examples of how long CreateOrder takes",
        well=True,
    )


async def _get(http: aiohttp.ClientSession, url: str, **parameters: str) -> Any:
    async with http.get(url, params=parameters) as response:
        response.raise_for_status()
        return await response.json()
