"""The load keeps to its number of callers and counts what was answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from bench.load import closed_loop, post_orders
from harness import until
from orderflow_client.status import PUSHBACK_KEY


async def test_so_many_callers_are_under_way_at_once() -> None:
    under_way: set[int] = set()
    most = 0

    async def call() -> None:
        nonlocal most
        mine = len(under_way) + 1
        under_way.add(mine)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.discard(mine)

    sample = await closed_loop(call, callers=4, calls=40)
    assert (most, sample.calls) == (4, 40)


async def test_a_refused_call_comes_again_and_counts_once() -> None:
    refusals = 3

    async def call() -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                grpc.aio.Metadata(),
                grpc.aio.Metadata((PUSHBACK_KEY, "1")),
            )

    sample = await closed_loop(call, callers=1, calls=2)
    assert (sample.calls, sample.refused) == (2, 3)


async def test_a_failed_call_ends_the_benchmark() -> None:
    async def call() -> None:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata()
        )

    with pytest.raises(ExceptionGroup):
        await closed_loop(call, callers=1, calls=1)


class Shop:
    """Answers each request on a connection with a status, and keeps the bodies."""

    def __init__(self, status: str) -> None:
        self._answer = f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        self.bodies: list[bytes] = []
        self.connections = 0
        self.closed = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Its address; at the end every connection must have been closed."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            await until(lambda: self.closed == self.connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while head := await reader.readline():
            length = 0
            while head != b"\r\n":
                name, _, value = head.lower().partition(b": ")
                length = int(value) if name == b"content-length" else length
                head = await reader.readline()
            self.bodies.append(await reader.readexactly(length))
            writer.write(self._answer)
        writer.close()
        await writer.wait_closed()
        self.closed += 1


async def test_orders_are_posted_as_json_each_with_an_id_of_its_own() -> None:
    shop = Shop("201 Created")
    async with shop.open() as address, post_orders(address) as call:
        await call()
        await call()
    first, second = map(json.loads, shop.bodies)
    assert first["request_id"] != second["request_id"]
    assert len(first["items"]) == 3
    assert shop.connections == 1


async def test_an_order_that_is_not_created_is_not_counted() -> None:
    shop = Shop("503 Service Unavailable")
    async with shop.open() as address, post_orders(address) as call:
        with pytest.raises(RuntimeError, match="503"):
            await call()
