"""The database's file is deleted or replaced under running servers, or is another program's."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from harness import running_service, until
from orderflow_client import OrderClient, OrderflowError, item, money
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for
from processes import run_server_command, server_process

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    copy.rename(path)


def keep(path: Path, kept: Path) -> None:
    """Gives the file another name, under which its orders are found when the first is gone."""
    kept.hardlink_to(path)
    Path(f"{kept}-wal").hardlink_to(f"{path}-wal")


def names_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def error_lines(log: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.splitlines()]
    return [line for line in lines if line["level"] == "error"]


async def test_a_service_whose_file_is_gone_is_not_serving_and_says_that_it_is_lost(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path) as service:
        placed = await service.client.create_order(
            customer_id="alice", items=ITEMS, payment_token="tok"
        )
        delete(tmp_path / "orders.db")
        assert "orders.db" in await service.app.lost
        assert await service.client.health() == "NOT_SERVING"
        with pytest.raises(OrderflowError):
            await service.client.get_order(placed.id)


@pytest.mark.e2e
@pytest.mark.parametrize("happens", [delete, replace])
async def test_no_order_is_acknowledged_into_a_lost_file_and_the_process_exits_1(
    tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    path = tmp_path / "orders.db"
    moved = tmp_path / "kept.db"
    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        acknowledged: list[UUID] = []
        too_late: list[str] = []
        gone = False

        async def place() -> None:
            while True:
                begun_after = gone
                order = await client.create_order(
                    customer_id="alice", items=ITEMS, payment_token="tok", timeout_s=5.0
                )
                acknowledged.append(UUID(order.id))
                if begun_after:
                    too_late.append(order.id)

        places = [asyncio.ensure_future(place()) for _ in range(8)]
        await until(lambda: len(acknowledged) >= 50)
        keep(path, moved)
        happens(path)
        gone = True
        await asyncio.wait(places)
        async with asyncio.timeout(20):
            assert await server.process.wait() == 1
        assert too_late == []
        lost = [line for line in error_lines(server.stdout) if "database lost" in line["event"]]
        assert len(lost) == 1
        assert str(path) in lost[0]["reason"]
        assert str(path) in server.stderr.splitlines()[-1]
        assert "Traceback" not in server.stderr
    async with open_store_for(DatabaseAddress(path=moved), existing_only=True) as store:
        for order_id in acknowledged:
            await store.get(order_id)


@pytest.mark.e2e
async def test_an_idle_server_whose_file_is_gone_is_not_serving_within_a_second_and_ends(
    tmp_path: Path,
) -> None:
    async with server_process(tmp_path) as server:
        await asyncio.sleep(0.5)
        begun_s = asyncio.get_running_loop().time()
        delete(tmp_path / "orders.db")
        await until(lambda: "database lost" in server.stdout)
        assert asyncio.get_running_loop().time() - begun_s < 1.0
        async with asyncio.timeout(5):
            assert await server.process.wait() == 1


@pytest.mark.e2e
async def test_workers_whose_file_is_gone_all_end_and_make_no_other(tmp_path: Path) -> None:
    async with server_process(tmp_path, arguments=["--workers", "2"]) as server:
        delete(tmp_path / "orders.db")
        async with asyncio.timeout(20):
            assert await server.process.wait() == 1
    assert "lost its database" in server.stderr
    assert not (tmp_path / "orders.db").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("statement", ["CREATE TABLE notes (text)", "PRAGMA application_id = 7"])
async def test_a_file_of_another_program_is_refused_in_one_sentence(
    tmp_path: Path, statement: str
) -> None:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
        connection.execute("VACUUM")
    before = path.read_bytes()
    code, output = await run_server_command(
        "serve", "--address", "127.0.0.1:0", "--database", str(path)
    )
    assert code == 1
    assert "belongs to another program" in output
    assert len(output.strip().splitlines()) == 1
    assert path.read_bytes() == before


@pytest.mark.e2e
async def test_an_operator_command_with_a_wrong_path_makes_no_database(tmp_path: Path) -> None:
    path = tmp_path / "typo.db"
    code, output = await run_server_command("parked", "--database", str(path))
    assert code == 1
    assert "does not exist" in output
    assert len(output.strip().splitlines()) == 1
    assert names_in(tmp_path) == []
