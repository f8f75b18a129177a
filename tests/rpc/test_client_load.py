"""`orderflow load`: customers come at their own pace, and what became of them is told."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

from typer.testing import CliRunner

from harness import running_service
from orderflow_client import OrderClient
from orderflow_client.cli import app
from orderflow_client.load import Tally, report_load, send_customers
from processes import free_port


async def test_each_customer_places_an_order_and_looks_at_it(tmp_path: Path) -> None:
    tally = Tally()
    async with running_service(tmp_path) as service:
        await send_customers(
            service.client, tally, rate=200, seconds=0.1, random=Random(1), clock=time.monotonic
        )
        orders = await service.orders()
    assert len(orders) == 20
    assert len({order.customer_id for order in orders}) > 10
    # Some list or cancel as well.
    assert tally.calls > 40
    assert not tally.failures


async def test_they_come_when_they_come_however_late_it_is(tmp_path: Path) -> None:
    now_s = 100.0
    delays = []

    async def slow_sleep(delay_s: float) -> None:
        nonlocal now_s
        delays.append(delay_s)
        now_s += 0.25

    async with running_service(tmp_path) as service:
        await send_customers(
            service.client,
            Tally(),
            rate=10,
            seconds=0.4,
            random=Random(1),
            clock=lambda: now_s,
            sleep=slow_sleep,
        )
        assert len(await service.orders()) == 4
    assert delays == [0.0] * 4


async def test_failures_are_told_by_their_reason_and_end_nothing() -> None:
    said: list[str] = []
    async with OrderClient(f"127.0.0.1:{free_port()}") as client:
        await report_load(
            client, rate=100, seconds=0.02, random=Random(1), clock=time.monotonic, tell=said.append
        )
    assert said == ["0 calls, 2 failed: UNAVAILABLE"]


async def test_past_a_limit_they_are_turned_away(tmp_path: Path) -> None:
    tally = Tally()
    async with running_service(tmp_path) as service:
        await send_customers(
            service.client,
            tally,
            rate=100,
            seconds=0.03,
            random=Random(1),
            clock=time.monotonic,
            most_at_once=0,
        )
    assert tally.take() == "0 calls, 3 customers turned away"
    assert tally.take() == "0 calls"


def test_the_command_ends_when_its_time_is_up() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    arguments = ["load", "--rate", "10", "--seconds", "0.1", "--target", nobody]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output) == (0, "0 calls, 1 failed: UNAVAILABLE\n")
