"""What OrderService promises, asked over real gRPC."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import pytest

from harness import (
    ALWAYS_DECLINED,
    NO_FAULTS,
    OUTAGE,
    Service,
    create_request,
    failure_of,
    running_service,
)
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import Conflict, InvalidRequest, NotFound, Unavailable, item, money
from orderflow_server.payments.simulator.faults import Faults

PENDING = order_pb2.ORDER_STATE_PENDING_PAYMENT
PAID = order_pb2.ORDER_STATE_PAID
DECLINED = order_pb2.ORDER_STATE_PAYMENT_DECLINED
REFUNDING = order_pb2.ORDER_STATE_REFUNDING
CANCELLED = order_pb2.ORDER_STATE_CANCELLED


async def create(service: Service, **changes: object) -> order_pb2.Order:
    return (await service.stub.CreateOrder(create_request(**changes))).order


async def test_an_order_is_placed_paid_and_read_back(service: Service) -> None:
    request = create_request()
    order = (await service.stub.CreateOrder(request)).order

    assert order.state == PAID
    assert order.version == 2
    assert list(order.items) == list(request.items)
    assert (order.total.currency_code, order.total.units, order.total.nanos) == (
        "EUR",
        25,
        990_000_000,
    )
    assert order.request_id == request.request_id
    assert UUID(order.id).version == 7
    assert service.charges(order.id) == 1
    assert await service.client.get_order(order.id) == order


async def test_the_id_begins_with_the_time_of_creation(service: Service) -> None:
    order = await create(service)
    created = order.create_time.seconds * 1000 + order.create_time.nanos // 1_000_000
    assert UUID(order.id).int >> 80 == created


async def test_a_declined_payment_is_an_answer_not_an_error(service: Service) -> None:
    service.set_faults(ALWAYS_DECLINED)
    order = await create(service)
    assert order.state == DECLINED
    assert order.decline_reason
    assert service.charges(order.id) == 0


async def test_with_the_gateway_down_the_order_is_kept_and_paid_later(service: Service) -> None:
    service.set_faults(OUTAGE)
    order = await create(service)
    assert order.state == PENDING
    assert service.charges(order.id) == 0

    service.set_faults(NO_FAULTS)
    settled = await service.client.wait_until_settled(order.id, timeout_s=10)
    assert settled.state == PAID
    assert service.charges(order.id) == 1


async def test_a_charge_whose_answer_was_lost_is_not_made_twice(tmp_path: Path) -> None:
    async with running_service(tmp_path, inline_payment_s=0.4) as service:
        service.set_faults(Faults(lost_answer_rate=1.0))
        order = await create(service)
        assert order.state == PENDING
        assert service.charges(order.id) == 1

        service.set_faults(NO_FAULTS)
        settled = await service.client.wait_until_settled(order.id, timeout_s=10)
        assert settled.state == PAID
        assert service.charges(order.id) == 1


async def test_200_concurrent_creates_of_one_request_id_are_one_order_and_one_charge(
    service: Service,
) -> None:
    request = create_request()
    answers = await asyncio.gather(*(service.stub.CreateOrder(request) for _ in range(200)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].order.state == PAID
    assert service.charges(answers[0].order.id) == 1
    assert len(await service.orders()) == 1


async def test_a_request_id_with_other_content_is_refused(service: Service) -> None:
    request = create_request()
    order = (await service.stub.CreateOrder(request)).order
    for change in (
        {"customer_id": "bob"},
        {"payment_token": "tok_other"},
        {"items": [item("BOOK-1", 3, money("12.50", "EUR"))]},
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.CreateOrder(
                create_request(**({"request_id": request.request_id} | change))
            )
        failure = failure_of(caught.value)
        assert failure.code is grpc.StatusCode.ALREADY_EXISTS
        assert failure.reason == "REQUEST_ID_REUSED"
        assert failure.domain == "orderflow"
    assert await service.orders() == [order]


async def test_request_ids_differ_only_in_their_value_not_in_their_spelling(
    service: Service,
) -> None:
    request = create_request()
    order = (await service.stub.CreateOrder(request)).order
    request.request_id = request.request_id.upper()
    assert (await service.stub.CreateOrder(request)).order == order


async def test_a_replay_returns_the_order_as_it_now_is(service: Service) -> None:
    request = create_request()
    order = (await service.stub.CreateOrder(request)).order
    await service.client.cancel_order(order.id)
    assert (await service.stub.CreateOrder(request)).order.state == CANCELLED
    assert service.charges(order.id) == 1


async def test_orders_are_there_after_a_restart(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        order = await create(service)
    async with running_service(tmp_path) as service:
        assert await service.client.get_order(order.id) == order


async def test_a_pending_order_is_paid_after_a_restart(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        service.set_faults(OUTAGE)
        order = await create(service)
    async with running_service(tmp_path) as service:
        settled = await service.client.wait_until_settled(order.id, timeout_s=10)
        assert settled.state == PAID


async def test_cancelling_a_paid_order_refunds_it_once(service: Service) -> None:
    order = await create(service)
    cancelled = await service.client.cancel_order(order.id)
    assert cancelled.state == CANCELLED
    assert cancelled.version == 4
    again = await service.client.cancel_order(order.id)
    assert again == cancelled
    assert service.refunds(order.id) == 1


async def test_cancelling_a_pending_order_rules_its_charge_out(service: Service) -> None:
    service.set_faults(OUTAGE)
    order = await create(service)
    service.set_faults(NO_FAULTS)
    cancelled = await service.client.cancel_order(order.id)
    assert cancelled.state == CANCELLED
    assert service.charges(order.id) == service.refunds(order.id)


async def test_a_pending_order_whose_charge_is_unknown_stays_as_it_is_when_cancelled(
    service: Service,
) -> None:
    service.set_faults(OUTAGE)
    order = await create(service)
    with pytest.raises(Unavailable) as caught:
        await service.client.cancel_order(order.id)
    assert caught.value.reason == "PAYMENT_UNRESOLVED"
    assert caught.value.retry_delay_s is not None
    assert (await service.client.get_order(order.id)).state == PENDING


async def test_a_refund_that_fails_is_finished_later(service: Service) -> None:
    order = await create(service)
    service.set_faults(OUTAGE)
    assert (await service.client.cancel_order(order.id)).state == REFUNDING
    service.set_faults(NO_FAULTS)
    assert (await service.client.wait_until_settled(order.id)).state == CANCELLED
    assert service.refunds(order.id) == 1


async def test_a_declined_order_cannot_be_cancelled(service: Service) -> None:
    service.set_faults(ALWAYS_DECLINED)
    order = await create(service)
    with pytest.raises(Conflict) as caught:
        await service.client.cancel_order(order.id)
    assert caught.value.code is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.reason == "ILLEGAL_TRANSITION"


async def test_what_does_not_exist_is_not_found(service: Service) -> None:
    missing = str(uuid4())
    with pytest.raises(NotFound, match=missing):
        await service.client.get_order(missing)
    with pytest.raises(NotFound):
        await service.client.cancel_order(missing)
    with pytest.raises(NotFound) as caught:
        await anext(aiter(service.client.watch_order(missing)))
    assert caught.value.reason == "ORDER_NOT_FOUND"


async def test_pages_cover_every_order_once_newest_first(service: Service) -> None:
    ids = [(await create(service, customer_id=f"c{n % 2}")).id for n in range(7)]
    paged = [order.id async for order in service.client.list_orders(page_size=3)]
    assert sorted(paged) == sorted(ids)
    assert paged == sorted(paged, reverse=True)
    mine = [order async for order in service.client.list_orders(customer_id="c0", page_size=2)]
    assert [order.customer_id for order in mine] == ["c0"] * 4


async def test_lists_are_filtered_by_state_and_time(service: Service) -> None:
    paid = await create(service)
    service.set_faults(ALWAYS_DECLINED)
    declined = await create(service)
    listed = [o.id async for o in service.client.list_orders(states=[DECLINED])]
    assert listed == [declined.id]
    created = declined.create_time.ToDatetime(tzinfo=UTC)
    before = [o.id async for o in service.client.list_orders(created_before=created)]
    after = [o.id async for o in service.client.list_orders(created_after=created)]
    assert (before, after) == ([paid.id], [declined.id])
    later = created + timedelta(days=1)
    assert [o async for o in service.client.list_orders(created_after=later)] == []


async def test_a_page_token_belongs_to_its_query(service: Service) -> None:
    for _ in range(3):
        await create(service)
    page = await service.client.list_orders_page(page_size=2)
    more = await service.client.list_orders_page(page_size=1, page_token=page.next_page_token)
    assert len(more.orders) == 1
    for change in (
        {"customer_id": "alice"},
        {"states": [PAID]},
        {"created_after": datetime(2020, 1, 1, tzinfo=UTC)},
    ):
        with pytest.raises(InvalidRequest) as caught:
            await service.client.list_orders_page(page_token=page.next_page_token, **change)
        assert [field for field, _ in caught.value.violations] == ["page_token"]


async def test_the_payment_token_is_never_returned(service: Service) -> None:
    canary = "tok_canary_4242"
    request = create_request(payment_token=canary)
    order = (await service.stub.CreateOrder(request)).order
    listed = await service.stub.ListOrders(pb.ListOrdersRequest())
    assert canary not in str(order) + str(listed)


@pytest.mark.parametrize("concurrency", [50])
async def test_concurrent_cancels_refund_once(service: Service, concurrency: int) -> None:
    order = await create(service)
    answers = await asyncio.gather(
        *(service.client.cancel_order(order.id) for _ in range(concurrency))
    )
    assert {answer.state for answer in answers} == {CANCELLED}
    assert service.refunds(order.id) == 1
    assert (await service.client.get_order(order.id)).version == 4


async def test_the_database_directory_must_exist(tmp_path: Path) -> None:
    from orderflow_server.orders.errors import StoreUnavailable

    with pytest.raises(StoreUnavailable):
        async with running_service(tmp_path / "missing"):
            raise AssertionError("it must not start")
