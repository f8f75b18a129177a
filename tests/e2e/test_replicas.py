"""Several server processes over one PostgreSQL are one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from harness import NO_FAULTS, OUTAGE, until
from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, item, money
from orderflow_server.payments.simulator.ledger import EntryKind
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

REPLICAS = 3
WATCHED = 1000
CALLERS = 20
ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


@asynccontextmanager
async def replicas(
    directory: Path, database: str, gateway: str, *, first: Mapping[str, str] | None = None
) -> AsyncIterator[list[str]]:
    """Their addresses. They start at the same time.

    Args:
        directory: For what they write.
        database: The URL of the one they share.
        gateway: Where they charge.
        first: More of the environment of the first.
    """

    async def start(number: int, stack: AsyncExitStack) -> ServerProcess:
        place = directory / str(number)
        place.mkdir()
        arguments = ["--database", database, "--gateway", gateway]
        environment = first if number == 0 else None
        return await stack.enter_async_context(
            server_process(place, arguments=arguments, environment=environment)
        )

    async with AsyncExitStack() as stack:
        started = await asyncio.gather(*(start(number, stack) for number in range(REPLICAS)))
        yield [server.address for server in started]


async def test_200_creates_of_one_request_id_over_three_replicas_are_one_order(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with (
        postgres.new(empty=True) as database,
        PaymentSimulator() as gateway,
        replicas(tmp_path, database, gateway.target) as addresses,
        AsyncExitStack() as stack,
    ):
        clients = [await stack.enter_async_context(OrderClient(each)) for each in addresses]
        request_id = str(uuid4())
        orders = await asyncio.gather(
            *(
                clients[number % REPLICAS].create_order(
                    request_id=request_id,
                    customer_id="alice",
                    items=ITEMS,
                    payment_token="tok_visa",
                    timeout_s=20.0,
                )
                for number in range(200)
            )
        )
        assert len({order.id for order in orders}) == 1
        [stored] = [order async for order in clients[0].list_orders()]
        assert stored.state == order_pb2.ORDER_STATE_PAID
        charges = [entry for entry in gateway.ledger.entries() if entry.kind is EntryKind.CHARGE]
        assert [entry.reference for entry in charges] == [stored.id]


async def test_a_watch_at_one_replica_sees_every_change_made_at_the_others(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with (
        postgres.new() as database,
        PaymentSimulator() as gateway,
        replicas(tmp_path, database, gateway.target) as addresses,
        OrderClient(addresses[0]) as first,
        OrderClient(addresses[1]) as second,
        OrderClient(addresses[2]) as third,
    ):
        order = await first.create_order(customer_id="alice", items=ITEMS, payment_token="tok_visa")
        versions: list[int] = []
        begun = asyncio.Event()

        async def watch() -> None:
            async for change in second.watch_order(order.id):
                versions.append(change.version)
                begun.set()

        watching = asyncio.create_task(watch())
        await begun.wait()
        await third.cancel_order(order.id)
        async with asyncio.timeout(4):  # Sooner than the look that needs no telling.
            await watching
        assert versions == list(range(versions[0], 5))


async def test_watches_of_1000_orders_at_one_replica_see_every_change_made_at_the_others(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    """From the first version to the last, in order, none missing: [1, 2, 3, 4] for each.

    The gateway is down while the orders are placed, so that no watch begins too late. The replica
    that is watched changes nothing: its background worker rests.
    """
    async with (
        postgres.new() as database,
        PaymentSimulator(faults=OUTAGE) as gateway,
        replicas(
            tmp_path, database, gateway.target, first={"ORDERFLOW_WORKER_POLL_S": "60"}
        ) as addresses,
        OrderClient(addresses[0]) as watching,
        OrderClient(addresses[1]) as second,
        OrderClient(addresses[2]) as third,
    ):
        versions: dict[str, list[int]] = {}
        paid: asyncio.Queue[str] = asyncio.Queue()

        async def place(client: OrderClient, count: int) -> None:
            for _ in range(count):
                order = await client.create_order(
                    customer_id="alice", items=ITEMS, payment_token="tok_visa"
                )
                versions[order.id] = []

        async def watch(order_id: str) -> None:
            async for change in watching.watch_order(order_id):
                versions[order_id].append(change.version)
                if change.state == order_pb2.ORDER_STATE_PAID:
                    paid.put_nowait(order_id)

        async def cancel(client: OrderClient) -> None:
            for _ in range(WATCHED // CALLERS):
                await client.cancel_order(await paid.get(), timeout_s=30.0)

        elsewhere = [second, third] * (CALLERS // 2)
        await asyncio.gather(*(place(client, WATCHED // CALLERS) for client in elsewhere))
        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            for order_id in versions:
                group.create_task(watch(order_id))
            await until(lambda: all(versions.values()), timeout_s=60)
            assert list(versions.values()) == [[1]] * WATCHED
            gateway.injector.faults = NO_FAULTS
            for client in elsewhere:
                group.create_task(cancel(client))
        assert list(versions.values()) == [[1, 2, 3, 4]] * WATCHED
