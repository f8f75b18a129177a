"""What hedging gains when one of two servers now and then is slow: the p99 of GetOrder.

Two servers, a process each, answer GetOrder after a time that is simulated: they sleep. The times
of a healthy server are log-normal, as those of services are: the median is 20 ms, the p95 45 ms,
the p99 64 ms. One server is healthy. The other is the same but that 3 % of its answers take 640 ms,
as behind a garbage collection or a lock: its own p99 is ten times the healthy one's. Which answers
are slow is drawn anew for each: a hedge that meets the slow server again is slow as seldom as
a first attempt.

The client calls both in turn (round robin) over real connections on loopback, by `open_channel`
with the contract of OrderService: once as it is, which hedges GetOrder after the p95 that it has
seen itself, and once without the hedging. Nothing else differs. Rounds alternate, so that what else
the machine does meets both, and a warm-up before them tells the client its p95.

What this does not show: servers that are slow because they are full. Then a hedge is more load,
and the retry budget stops them.

Exits with 1 unless the p99 falls to a fifth or less, for at most 10 % more attempts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

sys.path.append(str(Path(__file__).parent.parent))

from bench.checks import Check, conclude
from orderflow.v1 import order_pb2, order_service_pb2
from orderflow_client import (
    ORDER_CONTRACT,
    HedgeStarted,
    OrderClient,
    PolicyEvent,
    RetryScheduled,
    open_channel,
)

MEDIAN_S = 0.020
SIGMA = 0.5
HEALTHY_P99_S = MEDIAN_S * math.exp(2.326 * SIGMA)
SLOW_S = 10 * HEALTHY_P99_S
SLOW_SHARE = 0.03

CALLERS = 8
ROUNDS = 6
CALLS_PER_ROUND = 500
WARM_UP_CALLS = 300
WANTED_RATIO = 5.0
ALLOWED_EXTRA = 0.10

GET = "/orderflow.v1.OrderService/GetOrder"


def sleepy_orders(slow_share: float) -> grpc.GenericRpcHandler:
    """Knows every order, and takes its time."""

    async def get_order(request: Any, _context: Any) -> Any:
        slow = random.random() < slow_share
        await asyncio.sleep(SLOW_S if slow else MEDIAN_S * random.lognormvariate(0, SIGMA))
        return order_service_pb2.GetOrderResponse(order=order_pb2.Order(id=request.order_id))

    handler = grpc.unary_unary_rpc_method_handler(
        get_order,
        request_deserializer=order_service_pb2.GetOrderRequest.FromString,
        response_serializer=order_service_pb2.GetOrderResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler("orderflow.v1.OrderService", {"GetOrder": handler})


async def serve(slow_share: float) -> None:
    """Prints its port, and serves until its standard input is closed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((sleepy_orders(slow_share),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


@contextmanager
def server_process(slow_share: float) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", str(slow_share)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.communicate()


class Side:
    """One of the two that are compared, with what it measured.

    Attributes:
        latencies_s: Of each call.
    """

    def __init__(self, client: OrderClient, events: list[PolicyEvent]) -> None:
        self._client = client
        self._events = events
        self.latencies_s: list[float] = []

    async def calls(self, count: int) -> None:
        async def caller(mine: Iterator[int]) -> None:
            for number in mine:
                began_s = time.perf_counter()
                await self._client.get_order(str(number))
                self.latencies_s.append(time.perf_counter() - began_s)

        shared = iter(range(count))
        await asyncio.gather(*(caller(shared) for _ in range(CALLERS)))

    async def warm_up(self) -> None:
        await self.calls(WARM_UP_CALLS)
        self.latencies_s.clear()
        self._events.clear()

    @property
    def extra(self) -> float:
        """Attempts beside the first of each call, as a share of the calls."""
        more = [each for each in self._events if isinstance(each, HedgeStarted | RetryScheduled)]
        return len(more) / len(self.latencies_s)

    def quantile_ms(self, quantile: float) -> float:
        ordered = sorted(self.latencies_s)
        return ordered[math.ceil(quantile * len(ordered)) - 1] * 1000


@asynccontextmanager
async def side(target: str, *, hedging: bool) -> AsyncIterator[Side]:
    get = ORDER_CONTRACT[GET]
    contract = {GET: get if hedging else dataclasses.replace(get, hedging=None)}
    events: list[PolicyEvent] = []
    async with (
        open_channel(target, contract=contract, listeners=[events.append]) as channel,
        OrderClient(channel) as client,
    ):
        yield Side(client, events)


async def compare(target: str) -> tuple[Side, Side]:
    """Without hedging, and with it."""
    async with side(target, hedging=False) as plain, side(target, hedging=True) as hedged:
        await plain.warm_up()
        await hedged.warm_up()
        for _ in range(ROUNDS):
            await plain.calls(CALLS_PER_ROUND)
            await hedged.calls(CALLS_PER_ROUND)
        return plain, hedged


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        asyncio.run(serve(float(sys.argv[2])))
        return 0
    with server_process(0.0) as healthy, server_process(SLOW_SHARE) as slow:
        plain, hedged = asyncio.run(compare(f"ipv4:{healthy},{slow}"))

    table = Table("GetOrder", title=f"{len(plain.latencies_s)} calls each, {CALLERS} at a time")
    for heading in ("p50 ms", "p95 ms", "p99 ms", "p99.9 ms", "extra attempts"):
        table.add_column(heading, justify="right")
    for name, each in (("plain", plain), ("hedged", hedged)):
        quantiles = [f"{each.quantile_ms(q):.1f}" for q in (0.5, 0.95, 0.99, 0.999)]
        table.add_row(name, *quantiles, f"{each.extra:.1%}")
    Console().print(table)

    ratio = plain.quantile_ms(0.99) / hedged.quantile_ms(0.99)
    print(f"p99 falls by {ratio:.1f}x for {hedged.extra:.1%} more attempts")
    return conclude(
        "hedging",
        [
            Check(
                name="p99 without hedging, of that with it", measured=ratio, at_least=WANTED_RATIO
            ),
            Check(
                name="attempts that hedging adds",
                measured=hedged.extra * 100,
                unit="%",
                at_most=ALLOWED_EXTRA * 100,
            ),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
