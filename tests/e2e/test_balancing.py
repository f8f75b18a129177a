"""A client of several servers, each a process of its own, some of which go and come back."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from harness import until
from orderflow_client import OrderClient, item, money
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]
CALLS_PER_S = 100
LAME_DUCK_S = 4.0
"""Much longer than it takes a client to hear of it, and to place some orders elsewhere."""


class Load:
    """Places and reads orders through one client, at a steady rate, and counts the failures."""

    def __init__(self, client: OrderClient) -> None:
        self._client = client
        self.done = 0
        self.failures: list[Exception] = []
        self._calls: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def begin_calls() -> None:
            while True:
                call = asyncio.create_task(self._call())
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                await asyncio.sleep(1 / CALLS_PER_S)

        beginning = asyncio.create_task(begin_calls())
        try:
            yield
        finally:
            beginning.cancel()
            await asyncio.gather(*self._calls)

    async def _call(self) -> None:
        try:
            order = await self._client.create_order(
                customer_id="alice", items=ITEMS, payment_token="tok_visa"
            )
            await self._client.get_order(order.id)
        except Exception as error:  # noqa: BLE001  # counted, of whatever kind
            self.failures.append(error)
        self.done += 1

    @property
    def under_way(self) -> int:
        return len(self._calls)

    async def some(self) -> None:
        """Returns when so many more calls have ended that each server had its turn."""
        before = self.done
        await until(lambda: self.done >= before + CALLS_PER_S // 2, timeout_s=20)


@asynccontextmanager
async def replica(
    directory: Path, database: str, gateway: str, *arguments: str, until_serves: bool = True
) -> AsyncIterator[ServerProcess]:
    directory.mkdir()  # noqa: ASYNC240  # a moment, before anything runs
    async with server_process(
        directory,
        arguments=["--database", database, "--gateway", gateway, *arguments],
        environment={"ORDERFLOW_LAME_DUCK_S": str(LAME_DUCK_S)},
        until_serves=until_serves,
    ) as server:
        yield server


def said(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stdout.splitlines()]
    return [line for line in lines if line["event"] == event]


async def calls_of(server: ServerProcess) -> float:
    """How many calls about orders a server got.

    Of whatever kind: where two servers take turns, one may get all that is placed and the other all
    that is read.
    """
    return await asyncio.to_thread(_calls_of, server.ops_address)


def _calls_of(ops_address: str) -> float:
    with urlopen(f"http://{ops_address}/metrics", timeout=10) as response:
        text = response.read().decode()
    started = re.findall(
        r'^grpc_server_started_total\{.*grpc_service="orderflow.v1.OrderService".*\} ([0-9.e+]+)',
        text,
        re.MULTILINE,
    )
    return sum(map(float, started))


async def left_alone(server: ServerProcess, load: Load) -> None:
    """Returns when calls are made and none of them at this server."""
    async with asyncio.timeout(LAME_DUCK_S):
        before = -1.0
        while (now := await calls_of(server)) != before:
            before = now
            await load.some()


async def test_no_call_fails_while_one_of_two_stops_and_comes_back_or_after_it_was_killed(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with (
        postgres.new(empty=True) as database,
        PaymentSimulator() as gateway,
        AsyncExitStack() as stack,
    ):
        staying = await stack.enter_async_context(
            replica(tmp_path / "staying", database, gateway.target)
        )
        going = await stack.enter_async_context(
            replica(tmp_path / "going", database, gateway.target)
        )
        target = f"ipv4:{staying.address},{going.address}"
        client = await stack.enter_async_context(OrderClient(target))
        load = Load(client)
        async with load.running():
            await load.some()
            assert await calls_of(going) > 0

            going.process.send_signal(signal.SIGTERM)
            await until(lambda: said(going, "stopping"))
            await left_alone(going, load)
            # It would still serve: the client has left because of what its health says.
            assert going.process.returncode is None
            await asyncio.wait_for(going.process.wait(), 20)
            await load.some()

            same_address = ("--address", going.address)
            again = await stack.enter_async_context(
                replica(
                    tmp_path / "again",
                    database,
                    gateway.target,
                    *same_address,
                    until_serves=False,
                )
            )
            await until(lambda: said(again, "serving"), timeout_s=20)
            async with asyncio.timeout(20):
                while not await calls_of(again):
                    await load.some()

            assert load.failures == []

            under_way = load.under_way
            again.process.kill()
            await again.process.wait()
            await load.some()
            # So many at once are more than the retry budget is for.
            assert len(load.failures) <= under_way
            load.failures.clear()
            await load.some()
        assert load.failures == []


async def test_connections_are_spread_over_the_workers_of_a_server(tmp_path: Path) -> None:
    arguments = ("--workers", "2", "--ops-address", "127.0.0.1:0")
    async with server_process(tmp_path, arguments=arguments) as server:
        await until(lambda: len(said(server, "serving")) == 2, timeout_s=20)
        ops_addresses = {line["ops_address"] for line in said(server, "serving")}
        async with OrderClient(server.address, connections=12) as client:
            for _ in range(24):
                await client.create_order(
                    customer_id="alice", items=ITEMS, payment_token="tok_visa"
                )
        calls = [await asyncio.to_thread(_calls_of, address) for address in ops_addresses]
        assert sum(calls) == 24
        # The kernel chooses for each connection: that all are one worker's is 1 in 2048.
        assert min(calls) > 0
