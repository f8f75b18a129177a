"""OrderClient and its channel against a real server with scripted answers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from rpc.scripted_service import HANG, Refusal, Served, reason, serving

from orderflow.v1 import order_pb2, order_service_pb2
from orderflow_client import (
    ORDER_CONTRACT,
    Conflict,
    DeadlineExceeded,
    NotFound,
    OrderClient,
    Overloaded,
    PolicyEvent,
    RetryScheduled,
    Unavailable,
    item,
    money,
    open_channel,
)
from orderflow_client.channel import MAX_REQUEST_BYTES

PENDING = order_pb2.ORDER_STATE_PENDING_PAYMENT
PAID = order_pb2.ORDER_STATE_PAID
REFUNDING = order_pb2.ORDER_STATE_REFUNDING
CANCELLED = order_pb2.ORDER_STATE_CANCELLED
ITEMS = [item("SKU-1", 2, money("12.50", "EUR"))]
DOWN = Refusal(grpc.StatusCode.UNAVAILABLE, "down")
GONE = Refusal(
    grpc.StatusCode.NOT_FOUND,
    "there is no order",
    [reason("ORDER_NOT_FOUND", order_id="one")],
    {"x-request-id": "r-1"},
)


def watched(*states: order_pb2.OrderState.ValueType) -> list[object]:
    return [
        order_service_pb2.WatchOrderResponse(order=order_pb2.Order(version=version, state=state))
        for version, state in enumerate(states, start=1)
    ]


def page(*ids: str, token: str = "") -> order_service_pb2.ListOrdersResponse:
    return order_service_pb2.ListOrdersResponse(
        orders=[order_pb2.Order(id=each) for each in ids], next_page_token=token
    )


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[OrderClient]:
    async with OrderClient(served.target) as client:
        yield client


class TestCreate:
    async def test_sends_what_it_was_given(self, served: Served, client: OrderClient) -> None:
        order = await client.create_order(
            customer_id="c-1", items=ITEMS, payment_token="tok", request_id="r-1", timeout_s=5
        )
        assert order.id == "made"
        (received,) = served.orders.received
        assert received.request == order_service_pb2.CreateOrderRequest(
            request_id="r-1", customer_id="c-1", items=ITEMS, payment_token="tok"
        )
        assert received.time_remaining_s == pytest.approx(5, abs=0.3)

    async def test_makes_a_request_id_that_its_retries_share(
        self, served: Served, client: OrderClient
    ) -> None:
        served.orders.will("CreateOrder", DOWN)
        for _ in range(2):
            await client.create_order(customer_id="c-1", items=ITEMS, payment_token="tok")
        first, again, second = (
            uuid.UUID(each.request.request_id) for each in served.orders.received
        )
        assert first == again != second
        assert first.version == 4


async def test_errors_are_typed_and_keep_their_cause(served: Served, client: OrderClient) -> None:
    served.orders.will("GetOrder", GONE)
    with pytest.raises(NotFound, match="ORDER_NOT_FOUND") as caught:
        await client.get_order("one")
    assert caught.value.reason == "ORDER_NOT_FOUND"
    assert caught.value.metadata == {"order_id": "one"}
    assert caught.value.request_id == "r-1"
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)


async def test_every_method_raises_typed_errors(served: Served, client: OrderClient) -> None:
    refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no")
    for method in ("CreateOrder", "GetOrder", "CancelOrder", "ListOrders"):
        served.orders.will(method, refusal)
    served.orders.will("WatchOrder", [refusal])
    with pytest.raises(Conflict):
        await client.create_order(customer_id="c-1", items=ITEMS, payment_token="tok")
    with pytest.raises(Conflict):
        await client.get_order("one")
    with pytest.raises(Conflict):
        await client.cancel_order("one")
    with pytest.raises(Conflict):
        await anext(client.list_orders())
    with pytest.raises(Conflict):
        await anext(client.watch_order("one"))


async def test_retries_are_told_to_the_listeners(served: Served) -> None:
    events: list[PolicyEvent] = []
    served.orders.will("CancelOrder", DOWN)
    async with OrderClient(served.target, listeners=[events.append]) as client:
        order = await client.cancel_order("one")
    assert order.state == CANCELLED
    assert [type(event) for event in events] == [RetryScheduled]


class TestList:
    async def test_walks_the_pages_with_the_same_filters(
        self, served: Served, client: OrderClient
    ) -> None:
        served.orders.will("ListOrders", page("a", "b", token="t1"), page(token="t2"), page("c"))
        after = datetime(2026, 1, 1, tzinfo=UTC)
        orders = client.list_orders(
            customer_id="c-1", states=[PAID], created_after=after, page_size=2
        )
        assert [order.id async for order in orders] == ["a", "b", "c"]
        requests = [each.request for each in served.orders.received]
        assert [each.page_token for each in requests] == ["", "t1", "t2"]
        for request in requests:
            request.ClearField("page_token")
            assert request.customer_id == "c-1"
            assert request.states == [PAID]
            assert request.page_size == 2
            assert request.created_after.ToDatetime(UTC) == after
            assert not request.HasField("created_before")

    async def test_reads_no_further_than_it_is_asked(
        self, served: Served, client: OrderClient
    ) -> None:
        served.orders.will("ListOrders", page("a", "b", token="t1"))
        orders = client.list_orders()
        assert (await anext(orders)).id == "a"
        assert (await anext(orders)).id == "b"
        assert len(served.orders.received) == 1

    async def test_a_time_without_a_zone_is_refused(self, client: OrderClient) -> None:
        naive = datetime(2026, 1, 1)  # noqa: DTZ001  # what is refused
        with pytest.raises(ValueError, match="no time zone"):
            await client.list_orders_page(created_before=naive)


class TestWatch:
    async def test_yields_each_change(self, served: Served, client: OrderClient) -> None:
        served.orders.will("WatchOrder", watched(PENDING, PAID))
        states = [order.state async for order in client.watch_order("one")]
        assert states == [PENDING, PAID]

    async def test_hangs_up_when_it_is_left(self, served: Served, client: OrderClient) -> None:
        served.orders.will("WatchOrder", [*watched(PENDING), HANG])
        changes = client.watch_order("one")
        await anext(changes)
        await served.orders.hanging.wait()
        await changes.aclose()  # type: ignore[attr-defined]  # an async generator it is
        await served.orders.hung_up.wait()


class TestWaitUntilSettled:
    @pytest.mark.parametrize("settled", [PAID, CANCELLED, order_pb2.ORDER_STATE_PAYMENT_DECLINED])
    async def test_returns_the_first_state_that_lasts(
        self, served: Served, client: OrderClient, settled: order_pb2.OrderState.ValueType
    ) -> None:
        served.orders.will("WatchOrder", [*watched(PENDING, REFUNDING, settled), HANG])
        assert (await client.wait_until_settled("one")).state == settled

    async def test_watches_again_when_the_connection_is_lost(
        self, served: Served, client: OrderClient
    ) -> None:
        at_once = [error_details_pb2.RetryInfo(retry_delay=Duration())]
        served.orders.will(
            "WatchOrder",
            [*watched(PENDING), Refusal(grpc.StatusCode.UNAVAILABLE, details=at_once)],
            [Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, details=at_once)],
            watched(PAID),
        )
        assert (await client.wait_until_settled("one")).state == PAID
        assert len(served.orders.received) == 3

    async def test_watches_again_when_the_stream_just_ends(
        self, served: Served, client: OrderClient
    ) -> None:
        served.orders.will("WatchOrder", watched(PENDING), watched(PAID))
        assert (await client.wait_until_settled("one")).state == PAID

    async def test_gives_up_at_its_deadline(self, served: Served, client: OrderClient) -> None:
        served.orders.will("WatchOrder", [*watched(PENDING), HANG])
        with pytest.raises(DeadlineExceeded):
            await client.wait_until_settled("one", timeout_s=0.2)
        # gRPC rounds the time it sends up, by a percent at most.
        assert served.orders.received[0].time_remaining_s <= 0.203

    async def test_does_not_begin_a_reconnect_it_cannot_finish(
        self, served: Served, client: OrderClient
    ) -> None:
        later = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
        served.orders.will("WatchOrder", [Refusal(grpc.StatusCode.UNAVAILABLE, details=[later])])
        with pytest.raises(Unavailable):
            await client.wait_until_settled("one", timeout_s=30)
        assert len(served.orders.received) == 1

    async def test_other_errors_end_it(self, served: Served, client: OrderClient) -> None:
        served.orders.will("WatchOrder", [GONE])
        with pytest.raises(NotFound):
            await client.wait_until_settled("one")
        assert len(served.orders.received) == 1


async def test_health_is_what_the_server_says(served: Served, client: OrderClient) -> None:
    served.health.statuses["busy"] = health_pb2.HealthCheckResponse.NOT_SERVING
    assert await client.health() == "SERVING"
    assert await client.health("busy") == "NOT_SERVING"
    with pytest.raises(NotFound):
        await client.health("unheard.of")


class TestChannel:
    async def test_a_given_one_stays_open(self, served: Served) -> None:
        async with open_channel(served.target, contract=ORDER_CONTRACT) as channel:
            async with OrderClient(channel) as client:
                await client.get_order("one")
            async with OrderClient(channel) as client:
                await client.get_order("one")

    async def test_an_own_one_is_closed(self, served: Served) -> None:
        async with OrderClient(served.target) as client:
            await client.get_order("one")
        with pytest.raises(grpc.aio.UsageError):
            await client.get_order("one")

    async def test_says_who_it_is(self, served: Served, client: OrderClient) -> None:
        await client.get_order("one")
        assert str(served.orders.received[0].metadata["user-agent"]).startswith("orderflow-client/")

    async def test_does_not_send_what_the_server_would_not_take(
        self, served: Served, client: OrderClient
    ) -> None:
        with pytest.raises(Overloaded, match="larger than max"):
            await client.get_order("x" * MAX_REQUEST_BYTES)
        assert served.orders.received == []

    async def test_takes_the_largest_page(self, served: Served, client: OrderClient) -> None:
        big = order_pb2.Order(items=[item("S" * 64, 1, money("1", "EUR"))] * 100)
        response = order_service_pb2.ListOrdersResponse(orders=[big] * 1000)
        assert response.ByteSize() > 4 * 1024 * 1024
        served.orders.will("ListOrders", response)
        assert len((await client.list_orders_page(page_size=1000)).orders) == 1000

    async def test_finds_a_restarted_server_again(self, unused_tcp_port: int) -> None:
        target = f"127.0.0.1:{unused_tcp_port}"
        async with OrderClient(target) as client:
            async with serving(target):
                await client.get_order("one")
            with pytest.raises(Unavailable):
                await client.get_order("one")
            async with serving(target) as again:
                again.orders.will("WatchOrder", watched(PAID))
                assert (await client.wait_until_settled("one", timeout_s=5)).state == PAID

    async def test_uses_every_server_of_a_target(self, served: Served) -> None:
        async with (
            serving() as other,
            OrderClient(f"ipv4:{served.target},{other.target}") as client,
        ):
            while not (served.orders.received and other.orders.received):
                await client.get_order("one")

    def test_needs_a_running_loop(self) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            open_channel("127.0.0.1:1", contract=ORDER_CONTRACT)
