"""What an operator does about refused events."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes.clock import FakeClock
from fakes.orders import LEASE_FOR, NOW, new_order, order_id
from fakes.store import FakeOrderStore
from orderflow_server.cli import app
from orderflow_server.refused import list_refused, retry, skip
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.store import EngineOrderStore


async def refused_events(store: FakeOrderStore | EngineOrderStore) -> None:
    """Write three orders with two versions each; the events 1 and 3 are refused."""
    for number in (1, 2, 3):
        placed = await store.place(new_order(number), lease=LEASE_FOR)
        await store.save(placed.paid(NOW))
    await store.refuse({3: "larger than the stream takes", 1: "cannot be encoded: ValueError"})


async def test_refused_events_are_listed_oldest_first_with_reason_and_age() -> None:
    clock = FakeClock()
    store = FakeOrderStore(clock)
    await refused_events(store)
    clock.advance(timedelta(seconds=90))
    listed = await list_refused(store, limit=10)
    assert [line["sequence"] for line in listed] == [1, 3]
    assert listed[1] == {
        "sequence": 3,
        "order_id": str(order_id(2)),
        "version": 1,
        "state": "PENDING_PAYMENT",
        "reason": "larger than the stream takes",
        "refused_for_s": 90,
    }
    assert await list_refused(store, limit=1) == listed[:1]


async def test_retry_and_skip_report_what_they_did_and_do_it_once() -> None:
    store = FakeOrderStore()
    await refused_events(store)
    assert await retry(store, [1, 2]) == [
        {"sequence": 1, "result": "retried"},
        {"sequence": 2, "result": "not refused"},
    ]
    assert await skip(store, [1, 3]) == [
        {"sequence": 1, "result": "not refused"},
        {"sequence": 3, "result": "skipped"},
    ]
    assert await retry(store, None) == []
    assert await skip(store, [3]) == [{"sequence": 3, "result": "not refused"}]


def run(*arguments: str, fails: bool = False) -> list[dict[str, object]]:
    """Run the command; return the JSON objects that it prints."""
    result = CliRunner().invoke(app, ["events", *arguments])
    assert (result.exit_code != 0) == fails, result.output
    return [] if fails else [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def no_logs_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the commands from setting up the logs of this process."""
    monkeypatch.setattr("orderflow_server.cli.configure_logs", lambda **_: None)


@pytest.mark.usefixtures("no_logs_set_up")
def test_commands_over_a_database(tmp_path: Path) -> None:
    import asyncio

    path = tmp_path / "orders.db"

    async def prepare() -> None:
        async with open_store_for(DatabaseAddress(path=path)) as store:
            await refused_events(store)

    asyncio.run(prepare())
    database = ("--database", str(path))
    assert [line["sequence"] for line in run("refused", *database)] == [1, 3]
    assert run("skip", "3", *database) == [{"sequence": 3, "result": "skipped"}]
    assert run("retry", "--all", *database) == [{"sequence": 1, "result": "retried"}]
    assert run("retry", "1", *database) == [{"sequence": 1, "result": "not refused"}]
    assert run("refused", *database) == []
    run("retry", *database, fails=True)
    run("retry", "--all", "1", *database, fails=True)
    run("skip", *database, fails=True)
