"""What the service's parts tell of their work, as it is read from the ops port."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random
from uuid import uuid4

import aiohttp
import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from prometheus_client.samples import Sample

from fakes.clock import FakeClock
from fakes.gateway import FakeGateway, Trouble
from fakes.orders import LEASE_FOR, new_order
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.telemetry.call_metrics import CallMetrics
from orderflow_server.ops.server import ops_server
from orderflow_server.orders.errors import OrderError
from orderflow_server.orders.order import Order
from orderflow_server.payments.refusals import RefusalWatch
from orderflow_server.payments.settlement import Settlement
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.engine import BatchEnded
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.store import EngineOrderStore
from orderflow_server.telemetry.backlog_metrics import BacklogMetrics
from orderflow_server.telemetry.order_metrics import OrderMetrics
from orderflow_server.telemetry.runtime_metrics import runtime_metrics
from orderflow_server.telemetry.service_metrics import add_service_metrics
from orderflow_server.telemetry.store_metrics import StoreMetrics

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@dataclass
class Observed:
    """A store and a settlement, and what is told of them."""

    store: EngineOrderStore
    settlement: Settlement
    gateway: FakeGateway
    clock: FakeClock
    backlog_read: asyncio.Condition
    http: aiohttp.ClientSession
    address: str

    async def place_and_settle(self, order: Order) -> Order:
        return await self.settlement.settle(
            await self.store.place(order, lease=LEASE_FOR), until=Deadline.after(60)
        )

    async def read(self, accept: str = "text/plain") -> str:
        url = f"http://{self.address}/metrics"
        async with self.http.get(url, headers={"Accept": accept}) as response:
            assert response.status == 200
            return await response.text()

    async def samples(self) -> list[Sample]:
        families = plain_text(await self.read())
        return [sample for family in families for sample in family.samples]

    async def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of that name by the values of their labels."""
        return {
            tuple(sample.labels.values()): sample.value
            for sample in await self.samples()
            if sample.name == name
        }

    async def value(self, name: str) -> float:
        return (await self.values(name))[()]

    async def until_the_backlog_is_read(self) -> None:
        async with self.backlog_read:
            for _ in range(2):  # The first may have been asked for before.
                await self.backlog_read.wait()


@asynccontextmanager
async def observed(directory: Path) -> AsyncIterator[Observed]:
    registry, clock = CollectorRegistry(), FakeClock()
    store_metrics, order_metrics = StoreMetrics(registry), OrderMetrics(registry)
    add_service_metrics(registry, version="1.2.3", serving=lambda: True)
    calls = CallMetrics("server", registry).of(
        grpc_type="unary", service="orderflow.v1.OrderService", method="GetOrder"
    )
    calls.started()
    calls.handled(grpc.StatusCode.OK, 0.003, trace_id="0af7651916cd43dd8448eb211c80319c")
    backlog_read = asyncio.Condition()

    async def rest(_: float) -> None:
        async with backlog_read:
            backlog_read.notify_all()
        await asyncio.sleep(0.001)

    backlog_metrics = BacklogMetrics(registry, clock=clock.monotonic, sleep=rest)

    def on_batch(batch: BatchEnded) -> None:
        store_metrics.on_batch(batch)
        order_metrics.on_batch(batch)

    gateway = FakeGateway(clock)
    async with (
        open_store_for(
            DatabaseAddress(path=directory / "orders.db"), on_batch=on_batch, now=clock
        ) as store,
        aiohttp.ClientSession() as http,
        ops_server("127.0.0.1:0", registry=registry, ready=lambda: True) as address,
    ):
        store_metrics.watch_queue(lambda: store.queue_depth)
        settlement = Settlement(
            store=store,
            gateway=gateway,
            now=clock,
            retry_delay=lambda _: timedelta(seconds=1),
            listener=order_metrics.on_settlement,
            refusals=RefusalWatch(order_metrics.on_settlement),
        )
        with runtime_metrics(registry) as observe_lag:
            observe_lag(0.001)
            asking = asyncio.create_task(backlog_metrics.run(store.backlog))
            try:
                yield Observed(store, settlement, gateway, clock, backlog_read, http, address)
                assert not asking.done()
            finally:
                asking.cancel()
                await asyncio.wait({asking})


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Observed]:
    async with observed(tmp_path) as running:
        yield running


async def test_what_became_of_orders_is_told(it: Observed) -> None:
    await it.place_and_settle(new_order(1))
    it.gateway.decline_reason = "no funds"
    await it.place_and_settle(new_order(2))
    it.gateway.next(Trouble.UNREACHABLE, Trouble.REFUSED)
    await it.place_and_settle(new_order(3))
    await it.place_and_settle(new_order(4))

    assert await it.values("orderflow_order_changes_total") == {
        ("PENDING_PAYMENT",): 4,
        ("PAID",): 1,
        ("PAYMENT_DECLINED",): 1,
        ("REFUNDING",): 0,
        ("CANCELLED",): 0,
    }
    assert await it.values("orderflow_payments_total") == {
        ("PAID",): 1,
        ("PAYMENT_DECLINED",): 1,
        ("CANCELLED",): 0,
        ("unresolved",): 1,
        ("refused",): 1,
        ("invalid",): 0,
        ("parked",): 0,
    }
    # Four placed, two settled, two deferred; each was alone.
    assert (await it.values("orderflow_store_batches_total"))["written",] == 8
    assert await it.value("orderflow_store_batch_commands_sum") == 8
    assert await it.value("orderflow_store_batch_seconds_count") == 8
    assert await it.value("orderflow_store_queue_depth") == 0

    it.clock.advance(timedelta(seconds=90))
    await it.until_the_backlog_is_read()
    assert await it.values("orderflow_orders_pending") == {
        ("PENDING_PAYMENT",): 2,
        ("REFUNDING",): 0,
    }
    assert (await it.values("orderflow_orders_pending_age_seconds"))["PENDING_PAYMENT",] == 90


async def test_no_order_error_or_payment_makes_a_series_of_its_own(it: Observed) -> None:
    async def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(each.name, frozenset(each.labels.items())) for each in await it.samples()}

    before = await series()
    random = Random(1)
    for number in range(50):
        it.gateway.decline_reason = random.choice(["", str(uuid4())])
        it.gateway.next(random.choice([Trouble.NONE, Trouble.UNREACHABLE, Trouble.REFUSED]))
        await it.place_and_settle(new_order(number, customer_id=str(uuid4())))
        with pytest.raises(OrderError):  # another content under the same request id
            await it.store.place(
                new_order(number + 100, request=number, customer_id=str(uuid4())),
                lease=timedelta(0),
            )
    await it.until_the_backlog_is_read()
    assert await series() == before


async def test_openmetrics_is_what_its_own_parser_takes(it: Observed) -> None:
    parsed = openmetrics(await it.read(OPENMETRICS))  # type: ignore[no-untyped-call]  # it has none
    families = {family.name: family for family in parsed}
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for sample in families["grpc_server_handling_seconds"].samples
        if sample.exemplar is not None
    ]
    assert exemplars == ["0af7651916cd43dd8448eb211c80319c"]
    assert all(family.documentation for family in families.values())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
async def test_promtool_finds_nothing_wrong(it: Observed) -> None:
    await it.place_and_settle(new_order(1))
    process = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate((await it.read()).encode())
    assert (process.returncode, output.decode()) == (0, "")
