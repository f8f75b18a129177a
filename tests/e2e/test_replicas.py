"""Several server processes over one PostgreSQL are one service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, item, money
from orderflow_server.payments.simulator.ledger import EntryKind
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, server_process

REPLICAS = 3
ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


@asynccontextmanager
async def replicas(directory: Path, database: str, gateway: str) -> AsyncIterator[list[str]]:
    """Their addresses. They start at the same time."""

    async def start(number: int, stack: AsyncExitStack) -> ServerProcess:
        place = directory / str(number)
        place.mkdir()
        arguments = ["--database", database, "--gateway", gateway]
        return await stack.enter_async_context(server_process(place, arguments=arguments))

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
