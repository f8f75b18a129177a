"""The release before goes on working on a database that this one has migrated.

The release before is what was in the repository before the last step of the schema was: two
releases differ by one step at most, so nothing older has to work. It runs from a copy out of git's
history, beside a server of today, on one SQLite file: before step 0003 there was nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections import defaultdict
from contextlib import closing
from io import BytesIO
from pathlib import Path

import pytest

from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, item, money
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.audit import AuditedOrder, audit
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.server import PaymentSimulator
from orderflow_server.storage import migrations
from processes import run_server_command, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]
TOTAL = Money("EUR", 25, 0)
FAULTS = Faults(timeout_rate=0.1, lost_answer_rate=0.1, decline_rate=0.1)
ORDERS = 60
UNSETTLED = (order_pb2.ORDER_STATE_PENDING_PAYMENT, order_pb2.ORDER_STATE_REFUNDING)


def git(*arguments: str) -> bytes:
    """What git answers; the test is skipped where it does not."""
    program = shutil.which("git")
    if program is None:
        pytest.skip("git is not installed")
    ended = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, check=False)
    if ended.returncode != 0:
        pytest.skip(f"git has no history here: {ended.stderr.decode().strip()}")
    return ended.stdout


@pytest.fixture
def release_before(tmp_path: Path) -> dict[str, str]:
    """The environment in which `python -m orderflow_server` is the one of the release before."""
    versions = "server/orderflow_server/storage/migrations/versions"
    [last_step] = (ROOT / versions).glob(f"m{migrations.HEAD}_*.py")
    where = str(last_step.relative_to(ROOT))
    added = git("log", "--diff-filter=A", "--format=%H", "-1", "--", where).decode().strip()
    if not added:
        pytest.skip(f"{where} is not in git's history")
    archive = git("archive", f"{added}^", "server", "client")
    code = tmp_path / "release-before"
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(code, filter="data")
    assert not (code / where).exists()
    return {"PYTHONPATH": os.pathsep.join(str(code / part) for part in ("server", "client"))}


def schema_of(database: Path) -> str:
    with closing(sqlite3.connect(database)) as file:
        [(version,)] = file.execute("SELECT version_num FROM alembic_version")
    return str(version)


async def place(client: OrderClient, number: int) -> order_pb2.Order:
    return await client.create_order(
        customer_id=f"customer-{number % 5}", items=ITEMS, payment_token="tok_visa", timeout_s=20
    )


async def place_some(clients: list[OrderClient]) -> list[str]:
    """Orders placed at the clients in turn, of which every third is cancelled at the next one."""
    placed = await asyncio.gather(
        *(place(clients[number % len(clients)], number) for number in range(ORDERS))
    )
    await asyncio.gather(
        *(
            clients[number % len(clients)].cancel_order(order.id, timeout_s=20)
            for number, order in enumerate(placed[::3], start=1)
            if order.state == order_pb2.ORDER_STATE_PAID
        )
    )
    return [order.id for order in placed]


async def all_settled(client: OrderClient) -> None:
    """Asks again and again: over a file, no server hears of what another has changed."""
    async with asyncio.timeout(60):
        while (await client.list_orders_page(states=UNSETTLED, page_size=1)).orders:
            await asyncio.sleep(0.1)


async def listed(client: OrderClient, page_size: int) -> dict[str, order_pb2.Order]:
    return {order.id: order async for order in client.list_orders(page_size=page_size)}


async def test_the_release_before_works_beside_this_one_on_the_database_it_migrated(
    tmp_path: Path, release_before: dict[str, str]
) -> None:
    database = tmp_path / "shared.db"
    before_directory, now_directory = tmp_path / "before", tmp_path / "now"
    before_directory.mkdir()
    now_directory.mkdir()
    async with PaymentSimulator(seed=1, faults=FAULTS) as gateway:
        arguments = ["--database", str(database), "--gateway", gateway.target]
        async with (
            server_process(
                before_directory, arguments=arguments, environment=release_before
            ) as server_before,
            OrderClient(server_before.address) as before,
        ):
            assert int(schema_of(database)) == int(migrations.HEAD) - 1
            placed = await place_some([before])

            # The release before still serves while the schema changes under it.
            placing = asyncio.create_task(place_some([before]))
            code, output = await run_server_command("migrate", "--database", str(database))
            assert code == 0, output
            assert schema_of(database) == migrations.HEAD
            placed += await placing

            async with (
                server_process(now_directory, arguments=arguments) as server_now,
                OrderClient(server_now.address) as now,
            ):
                placed += await place_some([before, now])
                await all_settled(now)
                orders = await listed(now, 50)
                assert await listed(before, 7) == orders
                assert {order_id: await before.get_order(order_id) for order_id in orders} == orders

        found = audit(
            acknowledged=placed,
            orders=[
                AuditedOrder(
                    order.id,
                    OrderState(order_pb2.OrderState.Name(order.state).removeprefix("ORDER_STATE_")),
                    TOTAL,
                )
                for order in orders.values()
            ],
            ledger=gateway.ledger.entries(),
        )
        assert found.clean, found
    states = {order.state for order in orders.values()}
    assert {order_pb2.ORDER_STATE_PAID, order_pb2.ORDER_STATE_CANCELLED} <= states
    # Every change has its event, whichever of the two wrote it, and today's relay finds each.
    versions: dict[str, list[int]] = defaultdict(list)
    with closing(sqlite3.connect(database)) as file:
        for order_id, version in file.execute(
            "SELECT order_id, version FROM events WHERE NOT published ORDER BY sequence"
        ):
            versions[order_id].append(version)
    assert versions == {order.id: list(range(1, order.version + 1)) for order in orders.values()}
    lines = [json.loads(line) for line in server_before.stdout.splitlines()]
    assert not [line for line in lines if line["level"] == "error"]
