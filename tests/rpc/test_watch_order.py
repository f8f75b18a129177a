"""WatchOrder: every version once, in order."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness import NO_FAULTS, OUTAGE, Service, create_request, failure_of, running_service, until
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import Unavailable

PENDING = order_pb2.ORDER_STATE_PENDING_PAYMENT
PAID = order_pb2.ORDER_STATE_PAID
REFUNDING = order_pb2.ORDER_STATE_REFUNDING
CANCELLED = order_pb2.ORDER_STATE_CANCELLED


async def test_a_watch_tells_every_version_from_the_present_one_to_the_final_one(
    service: Service,
) -> None:
    service.set_faults(OUTAGE)
    order = (await service.stub.CreateOrder(create_request())).order
    watch = aiter(service.client.watch_order(order.id))
    seen = [await anext(watch)]

    service.set_faults(NO_FAULTS)
    seen.append(await anext(watch))
    await service.client.cancel_order(order.id)
    seen += [change async for change in watch]

    assert [change.state for change in seen] == [PENDING, PAID, REFUNDING, CANCELLED]
    assert [change.version for change in seen] == [1, 2, 3, 4]
    assert seen[-1] == await service.client.get_order(order.id)


async def test_a_watch_of_a_final_order_tells_it_once_and_ends(service: Service) -> None:
    order = (await service.stub.CreateOrder(create_request())).order
    cancelled = await service.client.cancel_order(order.id)
    assert [change async for change in service.client.watch_order(order.id)] == [cancelled]


async def test_many_watchers_see_the_same(service: Service) -> None:
    service.set_faults(OUTAGE)
    order = (await service.stub.CreateOrder(create_request())).order

    async def versions() -> list[int]:
        return [change.version async for change in service.client.watch_order(order.id)]

    async with asyncio.TaskGroup() as group:
        watches = [group.create_task(versions()) for _ in range(50)]
        await until(lambda: service.app.hub.watchers == 50)
        service.set_faults(NO_FAULTS)
        await service.client.wait_until_settled(order.id)
        await service.client.cancel_order(order.id)
    assert [watch.result() for watch in watches] == [[1, 2, 3, 4]] * 50


async def test_nothing_is_left_of_a_watch_that_the_client_abandons(service: Service) -> None:
    order = (await service.stub.CreateOrder(create_request())).order
    call: Any = service.stub.WatchOrder(pb.WatchOrderRequest(order_id=order.id))
    assert (await call.read()).order == order
    assert service.app.hub.watchers == 1
    call.cancel()
    await until(lambda: not service.app.hub.watchers and not service.app.rpc.chain.calls)


async def test_a_watch_ends_at_its_deadline(service: Service) -> None:
    order = (await service.stub.CreateOrder(create_request())).order
    call: Any = service.stub.WatchOrder(pb.WatchOrderRequest(order_id=order.id), timeout=0.2)
    assert (await call.read()).order == order
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not service.app.hub.watchers)


async def test_a_stopping_server_ends_its_watches_with_a_reason(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        order = (await service.stub.CreateOrder(create_request())).order
        call: Any = service.stub.WatchOrder(pb.WatchOrderRequest(order_id=order.id))
        assert (await call.read()).order == order
        service.app.hub.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    failure = failure_of(caught.value)
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "SERVER_DRAINING"


async def test_a_watch_that_begins_while_the_server_stops_is_refused(service: Service) -> None:
    order = (await service.stub.CreateOrder(create_request())).order
    service.app.hub.close()
    watch = aiter(service.client.watch_order(order.id))
    await anext(watch)
    with pytest.raises(Unavailable):
        await anext(watch)
