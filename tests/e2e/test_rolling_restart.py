"""Replicas are restarted one after the other under load, and no caller notices.

Each replica gets SIGTERM, says NOT_SERVING for its lame duck, lets running calls finish, ends with
0, and is started again at its address; then the other. Five times each.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from harness import create_request
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client import OrderClient, item, money
from orderflow_client.contract import contracts
from orderflow_client.service_config import service_config
from processes import ServerProcess, free_port, server_process, until_serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CALLS_PER_S = 100
"""Of each of two callers: 200 in all."""
RESTARTS = 5
LAME_DUCK_S = 0.5
BETWEEN_S = 1.5
"""Longer than the clients wait before they try to connect again: they must have noticed that the
replica is back before the other one goes."""
ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]

clock = time.monotonic


@dataclass
class Replica:
    """A server that is stopped as a deployment stops it, and started again at its address."""

    directory: Path
    arguments: list[str]
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self.server: ServerProcess = await self._stack.enter_async_context(
            server_process(
                self.directory,
                arguments=["--address", self.address, *self.arguments],
                environment={
                    "ORDERFLOW_LAME_DUCK_S": str(LAME_DUCK_S),
                    "ORDERFLOW_LOG_LEVEL": "warning",
                },
                until_serves=False,
            )
        )
        async with OrderClient(self.address) as client:
            await until_serving(client)

    async def stop(self) -> None:
        """Ends it in order, which must succeed."""
        self.server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await self.server.process.wait() == 0
        await self._stack.aclose()

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def two_replicas(directory: Path, database: str) -> AsyncIterator[list[Replica]]:
    """Over one database and one gateway, which is a process as well."""
    gateway = f"127.0.0.1:{free_port()}"
    simulator = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "orderflow_server", "gateway", "--port", gateway.rpartition(":")[2]),
        stdout=asyncio.subprocess.DEVNULL,
    )
    replicas = []
    for number in range(2):
        place = directory / f"replica-{number}"
        place.mkdir()
        replicas.append(Replica(place, ["--database", database, "--gateway", gateway]))
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        yield replicas
    finally:
        for replica in replicas:
            await replica.close()
        simulator.terminate()
        assert await simulator.wait() == 0


async def restart_each_in_turn(replicas: list[Replica], timeline: list[str]) -> None:
    for _ in range(RESTARTS):
        for number, replica in enumerate(replicas):
            await asyncio.sleep(BETWEEN_S)
            timeline.append(f"{clock():.2f}: replica {number} is told to stop")
            await replica.stop()
            timeline.append(f"{clock():.2f}: replica {number} has stopped")
            await replica.start()
            timeline.append(f"{clock():.2f}: replica {number} serves")


@dataclass
class Load:
    """Calls at a steady rate, however long each takes; each reads an order or, of ten, places one.

    Attributes:
        read: Reads an order that is there.
        place: Places one and returns its id.
        placed: All ids.
        failures: What callers saw of failed calls, and when.
        calls: How many were begun.
    """

    read: Callable[[], Awaitable[object]]
    place: Callable[[], Awaitable[str]]
    placed: list[str]
    failures: list[str] = field(default_factory=list)
    calls: int = 0

    async def until(self, done: asyncio.Future[None]) -> None:
        """Calls until it is done, and all calls have ended.

        Raises:
            Exception: What it was done with.
        """
        running: set[asyncio.Task[None]] = set()
        next_s = clock()
        while not done.done():
            # What this process was too late for is left out: it would come as one burst.
            next_s = max(next_s + 1 / CALLS_PER_S, clock())
            running.add(asyncio.create_task(self._call()))
            await asyncio.sleep(next_s - clock())
            running = {call for call in running if not call.done()}
        await asyncio.gather(*running)
        await done

    async def _call(self) -> None:
        self.calls += 1
        try:
            if self.calls % 10:
                await self.read()
            else:
                self.placed.append(await self.place())
        except Exception as error:  # noqa: BLE001  whatever it is, a caller saw it
            self.failures.append(f"{clock():.2f}: {error!r}")


@asynccontextmanager
async def order_client(target: str) -> AsyncIterator[Load]:
    """What our users have, as it comes."""
    async with OrderClient(target) as client:

        async def place() -> str:
            order = await client.create_order(
                customer_id="alice", items=ITEMS, payment_token="tok_visa"
            )
            return order.id

        first = await place()
        yield Load(lambda: client.get_order(first), place, [first])


@asynccontextmanager
async def bare_stub(target: str) -> AsyncIterator[Load]:
    """As a client in another language: gRPC's own retries by the exported service config."""
    service = pb.DESCRIPTOR.services_by_name["OrderService"]
    # Without health checks calls would go to a server until it hangs up, and those on their way to
    # it by then gRPC ends as CANCELLED, which nobody retries.
    config = service_config(contracts(service), health_service=service.full_name)
    for method in config["methodConfig"]:
        # Ours are given with the call. grpcio keeps those of a service config too short: where 2 s
        # were meant, calls that had to wait were seen to end after 0.66 s.
        method.pop("timeout", None)
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
    async with grpc.aio.insecure_channel(target, options) as channel:
        stub = order_service_pb2_grpc.OrderServiceStub(channel)

        async def place() -> str:
            request = create_request(request_id=str(uuid4()))
            return (await stub.CreateOrder(request, timeout=10)).order.id

        async def read() -> None:
            await stub.GetOrder(pb.GetOrderRequest(order_id=first), timeout=5)

        first = await place()
        yield Load(read, place, [first])


async def test_no_call_fails_at_an_order_client_nor_at_a_bare_stub(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with postgres.new() as database, two_replicas(tmp_path, database) as replicas:
        target = "ipv4:" + ",".join(each.address for each in replicas)
        async with order_client(target) as ours, bare_stub(target) as theirs:
            timeline: list[str] = []
            restarting = asyncio.ensure_future(restart_each_in_turn(replicas, timeline))
            await asyncio.gather(ours.until(restarting), theirs.until(restarting))
        async with OrderClient(target) as client:
            stored = {order.id async for order in client.list_orders(page_size=1000)}
    for name, load in (("OrderClient", ours), ("bare stub", theirs)):
        print(  # noqa: T201  for who runs it with -s
            f"\n{name}: {load.calls} calls, {len(load.placed)} orders, "
            f"{len(load.failures)} failed, {2 * RESTARTS} restarts"
        )
    assert ours.failures == [], timeline
    assert theirs.failures == [], timeline
    assert stored == {*ours.placed, *theirs.placed}
    assert min(ours.calls, theirs.calls) > 10 * CALLS_PER_S
