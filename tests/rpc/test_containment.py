"""A payment with a fault of its own holds up no other: the whole service and a faulty gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import NO_FAULTS, Service, create_request, running_service
from orderflow.v1 import order_pb2
from orderflow_server.parked import list_parked, release_all
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import open_store_for

PAID = order_pb2.ORDER_STATE_PAID
PENDING = order_pb2.ORDER_STATE_PENDING_PAYMENT
HANGING = "tok_hanging"


async def create(service: Service, token: str = "tok_visa") -> order_pb2.Order:
    return (await service.stub.CreateOrder(create_request(payment_token=token))).order


async def settled(service: Service, orders: Sequence[order_pb2.Order]) -> set[int]:
    return {int((await service.client.wait_until_settled(order.id)).state) for order in orders}


async def test_25_hanging_orders_hold_up_no_healthy_one_and_settle_in_the_end(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path, inline_payment_s=1.5, worker_payment_s=1.0) as service:
        service.set_faults(Faults(hanging_token=HANGING))
        healthy = [await create(service) for _ in range(5)]
        hanging = [asyncio.create_task(create(service, HANGING)) for _ in range(25)]
        while not all(order.done() for order in hanging):
            healthy.append(await create(service))
            await asyncio.sleep(0.02)
        # The worker tries the hanging ones meanwhile, again and again.
        for _ in range(40):
            healthy.append(await create(service))
            await asyncio.sleep(0.02)
        assert [order.state for order in healthy] == [PAID] * len(healthy)
        assert {order.result().state for order in hanging} == {PENDING}

        service.set_faults(NO_FAULTS)
        assert await settled(service, [order.result() for order in hanging]) == {PAID}


async def test_no_order_is_paid_on_a_wrong_answer(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.set_faults(Faults(lie_rate=1.0))
        orders = [await create(service) for _ in range(20)]
        assert {order.state for order in orders} == {PENDING}
        async with open_store_for(DatabaseAddress(path=tmp_path / "orders.db")) as store:
            found = await list_parked(store, limit=100, reason="ANSWER_INVALID")
            assert {line["order_id"] for line in found} == {order.id for order in orders}

            service.set_faults(NO_FAULTS)
            assert [r async for _, r in release_all(store)] == ["released"] * 20
            assert [r async for _, r in release_all(store)] == []
        assert await settled(service, orders) == {PAID}
        assert all(service.charges(order.id) == 1 for order in orders)


@pytest.mark.e2e  # seconds of waiting; the scenario slow-gateway shows it, too
async def test_a_gateway_slower_than_an_attempt_of_a_caller_is_waited_for(tmp_path: Path) -> None:
    async with running_service(tmp_path, inline_payment_s=1.3) as service:
        service.set_faults(Faults(latency_median_s=1.2))
        orders = await asyncio.gather(*(create(service) for _ in range(10)))
        assert {order.state for order in orders} == {PENDING}
        assert await settled(service, orders) == {PAID}
        assert all(service.charges(order.id) == 1 for order in orders)


@pytest.mark.e2e  # seconds of waiting; the scenario refusing-gateway shows it, too
async def test_a_gateway_that_refuses_all_for_a_while_parks_nobody(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.set_faults(Faults(refuse_code="UNIMPLEMENTED"))
        orders = [await create(service) for _ in range(30)]
        await asyncio.sleep(2)  # Long enough for the worker's first attempts.
        service.set_faults(NO_FAULTS)
        assert await settled(service, orders) == {PAID}
