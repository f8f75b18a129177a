"""Load: so many callers at once, each of which begins its next call when the last is answered.

What makes the load is as cheap as can be, so that it takes little from what is measured: requests
are bytes that are made once but for their request id, and HTTP is spoken by hand over connections
that stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import item, money
from orderflow_client.status import PUSHBACK_KEY, metadatum

ITEMS = [item(f"SKU-{number}", 2, money("19.99", "EUR")) for number in range(3)]
SERVICE = "/orderflow.v1.OrderService"
TIMEOUT_S = 30.0

Call = Callable[[], Awaitable[None]]


@dataclass
class Sample:
    """What the calls of one round met with.

    Attributes:
        refused: How often a call was told to come again later; it counts once, when it is served,
            with all the time that took.
    """

    took_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    refused: int = 0

    @property
    def calls(self) -> int:
        return len(self.latencies_ms)

    @property
    def per_s(self) -> float:
        return self.calls / self.took_s


def percentile(values: list[float], percent: int) -> float:
    """By linear interpolation between the two nearest."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def closed_loop(
    call: Call, *, callers: int, seconds: float = float("inf"), calls: float = float("inf")
) -> Sample:
    """Calls until the time is up or so many have begun, whichever is first."""
    sample = Sample()
    began_s = time.perf_counter()
    begun = 0

    async def one() -> None:
        nonlocal begun
        while begun < calls and time.perf_counter() - began_s < seconds:
            begun += 1
            call_began_s = time.perf_counter()
            while True:
                try:
                    await call()
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    sample.refused += 1
                    pushback_ms = metadatum(error.trailing_metadata(), PUSHBACK_KEY)
                    await asyncio.sleep(float(pushback_ms or 100) / 1000)
                else:
                    break
            sample.latencies_ms.append((time.perf_counter() - call_began_s) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one())
    sample.took_s = time.perf_counter() - began_s
    return sample


@asynccontextmanager
async def grpc_method(address: str, name: str, *, connections: int = 1) -> AsyncIterator[Any]:
    """A method of OrderService that takes and returns bytes, over connections in turn."""
    async with AsyncExitStack() as stack:
        methods: list[Any] = []
        for _ in range(connections):
            # Channels with equal options share their connections, unless told not to.
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
            )
            methods.append(channel.unary_unary(f"{SERVICE}/{name}"))
        turn = 0

        async def call(request: bytes) -> bytes:
            nonlocal turn
            turn += 1
            answer: bytes = await methods[turn % connections](request, timeout=TIMEOUT_S)
            return answer

        yield call


@asynccontextmanager
async def create_orders(address: str, *, connections: int = 1) -> AsyncIterator[Call]:
    """CreateOrder with three items, each time a new order."""
    body = pb.CreateOrderRequest(
        customer_id="alice", items=ITEMS, payment_token="tok_visa"
    ).SerializeToString()
    async with grpc_method(address, "CreateOrder", connections=connections) as method:

        async def call() -> None:
            # Field 1, of 36 bytes; protobuf takes fields in any order.
            await method(body + b"\x0a\x24" + str(uuid.uuid4()).encode())

        yield call


@asynccontextmanager
async def get_order(address: str, order_id: str) -> AsyncIterator[Call]:
    """GetOrder of one order."""
    body = pb.GetOrderRequest(order_id=order_id).SerializeToString()
    async with grpc_method(address, "GetOrder") as method:

        async def call() -> None:
            await method(body)

        yield call


@asynccontextmanager
async def post_orders(address: str) -> AsyncIterator[Call]:
    """`POST /orders` of the conventional peer: the same order as JSON.

    A call takes the connection that was used last, and makes one when all are in use.
    """
    unit_price = {"currency_code": "EUR", "units": 19, "nanos": 990_000_000}
    fields = {
        "request_id": "{}",
        "customer_id": "alice",
        "items": [
            {"sku": f"SKU-{number}", "quantity": 2, "unit_price": unit_price} for number in range(3)
        ],
        "payment_token": "tok_visa",
    }
    before, after = json.dumps(fields).split("{}")
    length = len(before) + 36 + len(after)
    head = (
        f"POST /orders HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n"
        f"content-length: {length}\r\n\r\n"
    )
    host, _, port = address.rpartition(":")
    opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connection() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        opened.append(await asyncio.open_connection(host, int(port)))
        return opened[-1]

    async def call() -> None:
        reader, writer = idle.pop() if idle else await connection()
        writer.write(f"{head}{before}{uuid.uuid4()}{after}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        status, _, headers = answer.decode().partition("\r\n")
        if " 201 " not in status:
            raise RuntimeError(f"POST /orders was answered with {status}")
        [size] = [line for line in headers.lower().split("\r\n") if line.startswith("content-len")]
        await reader.readexactly(int(size.partition(":")[2]))
        idle.append((reader, writer))

    try:
        yield call
    finally:
        for _, writer in opened:
            writer.close()
            with contextlib.suppress(OSError):  # the server was the first
                await writer.wait_closed()
