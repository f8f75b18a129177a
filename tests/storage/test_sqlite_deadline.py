"""Reads keep to the deadline of the call they are for."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fakes.orders import LEASE_FOR, new_order
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import DeadlineExpired
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for
from orderflow_server.storage.sqlite import SqliteDialect, SqliteOptions

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


async def test_a_read_whose_deadline_has_passed_is_not_begun(tmp_path: Path) -> None:
    async with open_store_for(DatabaseAddress(path=tmp_path / "orders.db")) as store:
        order = await store.place(new_order(), lease=LEASE_FOR)
        now_s = 10.0
        with (
            deadline.within(Deadline(10.0, clock=lambda: now_s)),
            pytest.raises(DeadlineExpired, match="before the read began"),
        ):
            await store.get(order.id)
        assert await store.get(order.id) == order


async def test_a_statement_is_given_up_when_the_time_is_up(tmp_path: Path) -> None:
    dialect = SqliteDialect(tmp_path / "orders.db", SqliteOptions(readers=1))
    await dialect.open()
    try:
        readings = iter([0.0, 0.0, 0.0])

        def clock() -> float:
            """In time until the statement has been looked at twice, and late from then on."""
            return next(readings, 11.0)

        def endless(connection: sqlite3.Connection) -> object:
            return connection.execute(ENDLESS).fetchone()

        with (
            deadline.within(Deadline(10.0, clock=clock)),
            pytest.raises(DeadlineExpired, match="during a read"),
        ):
            await dialect._in_reader(endless)
        # The connection is as good as before.
        await dialect.ping()
    finally:
        await dialect.close()
