"""Nothing lost, nothing twice: three replicas over PostgreSQL, while everything around them fails.

Every 2 s one server is killed (SIGKILL) and started again; connections of the database are
terminated, and once it is restarted; the gateway lets a tenth of the calls time out and loses the
answers of two in a hundred after charging. ORDERFLOW_CHAOS_ORDERS says how many orders; 20 000 by
default, which takes some minutes.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg
import pytest

from fakes.nats import NatsServer, nats_server
from fakes.postgres import PostgresProcess, postgres_process
from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, OrderflowError, item, money
from orderflow_client.errors import DeadlineExceeded, Overloaded, Unavailable
from orderflow_client.events import order_events
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.audit import AuditedOrder, audit
from orderflow_server.payments.simulator.client import fetch_ledger
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, free_port, server_process

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

ORDERS = int(os.environ.get("ORDERFLOW_CHAOS_ORDERS", "20000"))
SEED = int(os.environ.get("ORDERFLOW_CHAOS_SEED", "1"))
CALLERS = 100
CANCELLED_PART = 0.1
KILL_EVERY_S = 2.0
TERMINATE_EVERY_S = 5.0
FAULTS = Faults(timeout_rate=0.1, lost_answer_rate=0.02, decline_rate=0.05)
SETTLE_S = 300.0
AWAITING = (order_pb2.ORDER_STATE_PENDING_PAYMENT, order_pb2.ORDER_STATE_REFUNDING)


@dataclass
class Replica:
    """A server that is killed and started again, always at the same address."""

    directory: Path
    database: str
    environment: dict[str, str]
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    kills: int = 0

    async def start(self) -> None:
        self._stack = AsyncExitStack()
        self._server: ServerProcess = await self._stack.enter_async_context(
            server_process(
                self.directory,
                arguments=[
                    *("--address", self.address, "--ops-address", "127.0.0.1:0"),
                    *("--database", self.database),
                ],
                environment=self.environment,
                until_serves=False,
            )
        )

    async def kill(self) -> None:
        """Does nothing to one that has ended by itself."""
        if self.runs:
            self._server.process.kill()
            self.kills += 1
        await self._stack.aclose()

    @property
    def runs(self) -> bool:
        return self._server.process.returncode is None

    async def see_that_it_runs(self) -> None:
        """As whatever supervises servers does: one that starts without a database ends."""
        if not self.runs:
            await self._stack.aclose()
            await self.start()


@dataclass
class World:
    """All processes, and what has been done to them."""

    replicas: Sequence[Replica]
    postgres: PostgresProcess
    nats: NatsServer
    gateway: str
    terminated: int = 0
    restarts: int = 0

    @property
    def target(self) -> str:
        return "ipv4:" + ",".join(replica.address for replica in self.replicas)


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    with postgres_process({}) as postgres:
        async with (
            nats_server(directory) as nats,
            PaymentSimulator(seed=SEED, faults=FAULTS) as gateway,
        ):
            replicas = []
            for number in range(3):
                place = directory / f"replica-{number}"
                place.mkdir()
                environment = {
                    "ORDERFLOW_NATS": nats.url,
                    "ORDERFLOW_GATEWAY": gateway.target,
                    "ORDERFLOW_LOG_LEVEL": "warning",
                    "ORDERFLOW_WORKER_POLL_S": "0.2",
                }
                replicas.append(Replica(place, postgres.url, environment))
            made = World(replicas, postgres, nats, gateway.target)
            # At the same time: migrations are safe then.
            await asyncio.gather(*(replica.start() for replica in replicas))
            try:
                async with OrderClient(made.target) as client:
                    await until_serving(client)
                yield made
            finally:
                for replica in replicas:
                    await replica.kill()


async def until_serving(client: OrderClient) -> None:
    async with asyncio.timeout(30):
        while True:
            with suppress(OrderflowError):
                if await client.health() == "SERVING":
                    return
            await asyncio.sleep(0.05)


async def kill_servers(it: World, random: Random) -> None:
    while True:
        await asyncio.sleep(KILL_EVERY_S)
        replica = random.choice(it.replicas)
        await replica.kill()
        await replica.start()
        for each in it.replicas:
            await each.see_that_it_runs()


async def terminate_connections(it: World) -> None:
    while True:
        await asyncio.sleep(TERMINATE_EVERY_S)
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(it.postgres.url, timeout=5)
            it.terminated += await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            await connection.close(timeout=5)


async def restart_the_database(it: World, placed: Counter[str]) -> None:
    while placed["orders"] < ORDERS / 2:
        await asyncio.sleep(0.1)
    await asyncio.to_thread(it.postgres.stop, at_once=True)
    await asyncio.to_thread(it.postgres.start)
    it.restarts += 1


async def place_all(client: OrderClient, placed: Counter[str]) -> tuple[set[str], set[str]]:
    """The ids of the orders that were acknowledged, and of those whose cancellation was."""
    acknowledged: set[str] = set()
    cancelled: set[str] = set()
    numbers = iter(range(ORDERS))

    async def caller() -> None:
        for number in numbers:
            random = Random(SEED * 1_000_003 + number)
            order_id = await place(client, random)
            acknowledged.add(order_id)
            placed["orders"] += 1
            if random.random() < CANCELLED_PART and await cancel(client, order_id):
                cancelled.add(order_id)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return acknowledged, cancelled


async def place(client: OrderClient, random: Random) -> str:
    """As a careful caller does: the same request_id until there is an answer."""
    request_id = str(uuid.UUID(int=random.getrandbits(128), version=4))
    customer_id = f"customer-{random.randrange(100)}"
    items = [item(f"SKU-{random.randrange(1000)}", random.randint(1, 5), money("12.50", "EUR"))]
    while True:
        try:
            order = await client.create_order(
                request_id=request_id,
                customer_id=customer_id,
                items=items,
                payment_token="tok_chaos",
            )
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            await asyncio.sleep(error.retry_delay_s or 0.1)
        else:
            return order.id


async def cancel(client: OrderClient, order_id: str) -> bool:
    """False: it cannot be cancelled, being declined."""
    while True:
        try:
            await client.cancel_order(order_id)
        except (Unavailable, DeadlineExceeded, Overloaded) as error:
            await asyncio.sleep(error.retry_delay_s or 0.1)
        except OrderflowError as error:
            if error.code.name == "ABORTED":  # Somebody else was faster; ask again.
                continue
            if error.reason == "ILLEGAL_TRANSITION":
                return False
            raise
        else:
            return True


async def settled(client: OrderClient) -> None:
    async with asyncio.timeout(SETTLE_S):
        while True:
            with suppress(OrderflowError):
                page = await client.list_orders_page(states=AWAITING, page_size=1)
                if not page.orders:
                    return
            await asyncio.sleep(0.5)


async def test_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    async with world(tmp_path) as it, OrderClient(it.target) as client:
        placed: Counter[str] = Counter()
        began_s = time.monotonic()
        faults = [
            asyncio.create_task(kill_servers(it, Random(SEED))),
            asyncio.create_task(terminate_connections(it)),
        ]
        restart = asyncio.create_task(restart_the_database(it, placed))
        acknowledged, cancelled = await place_all(client, placed)
        await restart
        for fault in faults:
            fault.cancel()
        ended = await asyncio.gather(*faults, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        for replica in it.replicas:  # One may have been killed and not been started.
            await replica.see_that_it_runs()
        placed_s = time.monotonic() - began_s
        await settled(client)
        settled_s = time.monotonic() - began_s
        await check(it, acknowledged, cancelled)
        kills = sum(replica.kills for replica in it.replicas)
        print(  # noqa: T201  the figures of the run
            f"\n{ORDERS} orders, {len(cancelled)} cancelled; placed in {placed_s:.0f} s, settled "
            f"after {settled_s:.0f} s; {kills} servers killed, {it.terminated} connections "
            f"terminated, database restarted {it.restarts} time"
        )
        assert kills >= placed_s / KILL_EVERY_S / 3
        assert it.terminated > 0
        assert it.restarts == 1


async def check(it: World, acknowledged: set[str], cancelled: set[str]) -> None:
    connection = await asyncpg.connect(it.postgres.url)
    orders = await connection.fetch(
        "SELECT id, state, version, currency_code, total_units, total_nanos FROM orders"
    )
    events = await connection.fetch(
        "SELECT order_id, version, state FROM events ORDER BY order_id, version"
    )
    unpublished = "SELECT count(*) FROM events WHERE NOT published"
    async with asyncio.timeout(60):
        while await connection.fetchval(unpublished):
            await asyncio.sleep(0.2)
    await connection.close()

    # Every acknowledged order is there, at rest, and the ledger agrees with each.
    states = {str(order["id"]): OrderState(order["state"]) for order in orders}
    assert len(orders) == len(acknowledged) == ORDERS
    assert all(states[order_id] is OrderState.CANCELLED for order_id in cancelled)
    found = audit(
        acknowledged=acknowledged,
        orders=[
            AuditedOrder(
                str(order["id"]),
                OrderState(order["state"]),
                Money(order["currency_code"], order["total_units"], order["total_nanos"]),
            )
            for order in orders
        ],
        ledger=await fetch_ledger(it.gateway),
    )
    assert found.clean, found

    # Every state change has exactly one outbox row: versions without gaps, the last the order's.
    versions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        versions[str(event["order_id"])].append(event["version"])
    for order in orders:
        expected = list(range(1, order["version"] + 1))
        assert versions[str(order["id"])] == expected, order

    # A consumer that deduplicates saw each once, those of an order in their order.
    seen: dict[str, list[int]] = defaultdict(list)
    total = 0
    async with (
        asyncio.timeout(120),
        aclosing(order_events([it.nats.url], from_start=True)) as published,
    ):
        async for message in published:
            seen[message.order.id].append(message.order.version)
            total += 1
            if total == len(events):
                break
    assert seen == versions
