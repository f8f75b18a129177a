"""How calls are spread over several servers, by what these say of their health."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from rpc.scripted_service import HANG, Refusal, ScriptedOrderService, reason

from harness import until
from orderflow.v1 import order_service_pb2, order_service_pb2_grpc
from orderflow_client import (
    ORDER_CONTRACT,
    OrderClient,
    PolicyEvent,
    RetryScheduled,
    Unavailable,
    item,
    money,
    open_channel,
)
from orderflow_client.service_config import service_config
from orderflow_server.rpc.health import HealthService

ORDERS = "orderflow.v1.OrderService"
GET = order_service_pb2.GetOrderRequest(order_id="one")
CALLS = 12


class _Orders(ScriptedOrderService):
    """Also knows how many connections its calls came over, and takes its time when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.connections: Counter[str] = Counter()
        self.delay_s = 0.0

    async def _answer(self, method: str, request: Any, context: Any, default: Any) -> Any:
        self.connections[context.peer()] += 1
        await asyncio.sleep(self.delay_s)
        return await super()._answer(method, request, context, default)


@dataclass(frozen=True)
class Server:
    grpc: grpc.aio.Server
    target: str
    orders: _Orders
    health: HealthService

    @property
    def calls(self) -> int:
        return len(self.orders.received)


@asynccontextmanager
async def serving(*options: tuple[str, int], healthy: bool = True) -> AsyncIterator[Server]:
    """A server with the service's own health, and with options of gRPC's."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0), *options])
    orders, health = _Orders(), HealthService([ORDERS])
    if healthy:
        health.serve()
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield Server(server, f"127.0.0.1:{port}", orders, health)
    finally:
        await server.stop(None)


def both(one: Server, other: Server) -> str:
    return f"ipv4:{one.target},{other.target}"


async def call_until(client: OrderClient, server: Server) -> None:
    """Calls until one more has come to a server."""
    before = server.calls
    async with asyncio.timeout(5):
        while server.calls == before:
            await client.get_order("one")


async def call_until_not(client: OrderClient, server: Server) -> None:
    """Calls until as many as would make several turns have all gone elsewhere."""
    async with asyncio.timeout(5):
        while True:
            before = server.calls
            for _ in range(CALLS):
                await client.get_order("one")
            if server.calls == before:
                return


class TestHealth:
    async def test_no_call_goes_to_a_server_that_is_not_serving_until_it_is(self) -> None:
        async with (
            serving() as healthy,
            serving(healthy=False) as ill,
            OrderClient(both(healthy, ill)) as client,
        ):
            for _ in range(CALLS):
                await client.get_order("one")
            assert (healthy.calls, ill.calls) == (CALLS, 0)
            ill.health.serve()
            await call_until(client, ill)

    async def test_calls_leave_a_server_that_says_it_is_about_to_stop(self) -> None:
        async with (
            serving() as staying,
            serving() as leaving,
            OrderClient(both(staying, leaving)) as client,
        ):
            await call_until(client, leaving)
            leaving.health.refuse()
            await call_until_not(client, leaving)

    async def test_while_no_server_is_healthy_any_is_called(self) -> None:
        """What it says is worth more than that it is ill."""
        refusal = Refusal(
            grpc.StatusCode.UNAVAILABLE,
            "no database",
            [reason("STORE_UNAVAILABLE")],
            {"grpc-retry-pushback-ms": "-1"},
        )
        async with (
            serving(healthy=False) as one,
            serving(healthy=False) as other,
            OrderClient(both(one, other)) as client,
        ):
            while not (one.calls and other.calls):
                await client.get_order("one")
            one.orders.will("GetOrder", refusal)
            other.orders.will("GetOrder", refusal)
            with pytest.raises(Unavailable) as caught:
                await client.get_order("one")
            assert caught.value.reason == "STORE_UNAVAILABLE"

    async def test_a_watch_of_an_ill_server_is_possible_too(self) -> None:
        async with serving(healthy=False) as ill, OrderClient(ill.target) as client:
            change = order_service_pb2.WatchOrderResponse()
            while not ill.calls:
                await client.get_order("one")
            ill.orders.will("WatchOrder", [change, change])
            assert len([order async for order in client.watch_order("one")]) == 2

    async def test_one_of_them_that_becomes_healthy_is_preferred_again(self) -> None:
        async with (
            serving() as one,
            serving() as other,
            OrderClient(both(one, other)) as client,
        ):
            await call_until(client, other)
            one.health.refuse()
            other.health.refuse()
            await call_until_not_failing(client)
            one.health.serve()
            await call_until_not(client, other)

    async def test_an_ill_server_can_be_asked_how_it_is(self) -> None:
        async with serving(healthy=False) as ill, OrderClient(ill.target) as client:
            assert await client.health() == "NOT_SERVING"

    async def test_to_ask_for_it_takes_no_connection_of_its_own(self) -> None:
        async with serving() as server, OrderClient(server.target) as client:
            await client.get_order("one")
            server.health.refuse()
            await call_until_not_failing(client)
            assert len(server.orders.connections) == 1

    async def test_the_exported_config_says_the_same_to_others(self) -> None:
        config = json.dumps(service_config(ORDER_CONTRACT, health_service=ORDERS))
        async with serving() as healthy, serving(healthy=False) as ill:
            options = [("grpc.service_config", config)]
            async with grpc.aio.insecure_channel(both(healthy, ill), options) as channel:
                stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
                for _ in range(CALLS):
                    await stub.GetOrder(GET, timeout=5)
                assert (healthy.calls, ill.calls) == (CALLS, 0)
                ill.health.serve()
                async with asyncio.timeout(5):
                    while not ill.calls:
                        await stub.GetOrder(GET, timeout=5)


async def call_until_not_failing(client: OrderClient) -> None:
    """Several calls that must all succeed: nothing in between may be refused."""
    for _ in range(CALLS):
        await client.get_order("one")


class TestServersThatGo:
    async def test_a_name_stands_for_those_of_its_addresses_that_answer(self) -> None:
        async with serving() as server:
            _, port = server.target.split(":")
            async with OrderClient(f"dns:///localhost:{port}") as client:
                for _ in range(CALLS):
                    await client.get_order("one")
            assert server.calls == CALLS

    async def test_a_server_that_is_down_from_the_start_is_not_noticed(self) -> None:
        events: list[PolicyEvent] = []
        async with (
            serving() as up,
            OrderClient(f"ipv4:127.0.0.1:1,{up.target}", listeners=[events.append]) as client,
        ):
            for _ in range(CALLS):
                await client.get_order("one")
        assert up.calls == CALLS
        assert events == []

    async def test_calls_under_way_on_one_that_dies_are_made_again_on_the_other(self) -> None:
        events: list[PolicyEvent] = []
        async with (
            serving() as dying,
            serving() as other,
            OrderClient(both(dying, other), listeners=[events.append]) as client,
        ):
            await call_until(client, dying)
            dying.orders.will("CreateOrder", HANG)
            # In turns, so that one of two comes there.
            calls = [asyncio.create_task(create(client)) for _ in range(2)]
            await dying.orders.hanging.wait()
            await dying.grpc.stop(None)
            assert {order.id for order in await asyncio.gather(*calls)} == {"made"}
            for _ in range(CALLS):
                await client.get_order("one")
        # One as a rule; two when the client hears of the end later than of the call's.
        assert {type(event) for event in events} == {RetryScheduled}
        assert len(events) <= 2
        [hung] = dying.orders.attempts("CreateOrder")
        made = [each.request for each in other.orders.attempts("CreateOrder")]
        assert hung.request in made

    async def test_a_connection_that_has_grown_old_ends_without_a_failed_call(self) -> None:
        events: list[PolicyEvent] = []
        async with (
            serving(
                ("grpc.max_connection_age_ms", 150), ("grpc.max_connection_age_grace_ms", 5_000)
            ) as server,
            OrderClient(server.target, listeners=[events.append]) as client,
        ):
            server.orders.delay_s = 0.4
            # Of a method that is not hedged: that would hide a failure.
            long_ones = [asyncio.create_task(client.cancel_order("one")) for _ in range(3)]
            await until(lambda: server.orders.connections.total() == len(long_ones))
            server.orders.delay_s = 0.01
            while len(server.orders.connections) < 4:
                await client.cancel_order("one")
            await asyncio.gather(*long_ones)
        assert events == []


async def create(client: OrderClient) -> Any:
    return await client.create_order(
        customer_id="c", items=[item("s", 1, money("1", "EUR"))], payment_token="tok"
    )


class TestConnections:
    async def test_there_are_as_many_as_were_asked_for_and_they_take_turns(self) -> None:
        async with serving() as server, OrderClient(server.target, connections=4) as client:
            for _ in range(CALLS):
                await client.get_order("one")
            assert sorted(server.orders.connections.values()) == [3, 3, 3, 3]

    async def test_they_share_their_policies(self) -> None:
        """The first call, with its five failures, leaves the budget of all with none to spend."""
        async with serving() as server:
            server.orders.will("GetOrder", *[Refusal(grpc.StatusCode.UNAVAILABLE, "no")] * 40)
            async with OrderClient(server.target, connections=4) as client:
                for _ in range(4):
                    with pytest.raises(Unavailable):
                        await client.get_order("one")
            assert server.calls == 5 + 3

    async def test_a_stream_is_one_as_well(self) -> None:
        async with serving() as server:
            answer = order_service_pb2.WatchOrderResponse()
            server.orders.will("WatchOrder", *[[answer, answer]] * 2)
            async with OrderClient(server.target, connections=2) as client:
                for _ in range(2):
                    assert len([order async for order in client.watch_order("one")]) == 2

    @pytest.mark.parametrize("connections", [1, 2])
    async def test_there_are_more_when_the_server_lets_one_have_no_more_streams(
        self, connections: int
    ) -> None:
        """Without them, the calls would wait for one another."""
        async with (
            # Without the last, the server refuses streams for a moment longer than it says.
            serving(
                ("grpc.max_concurrent_streams", 5), ("grpc.http.overload_protection", 0)
            ) as server,
            OrderClient(server.target, connections=connections) as client,
        ):
            await client.get_order("one")
            server.orders.delay_s = 0.3
            await asyncio.gather(*(client.get_order("one") for _ in range(20)))
            assert len(server.orders.connections) >= 4

    async def test_none_is_too_few(self) -> None:
        with pytest.raises(ValueError, match="connections is 0"):
            open_channel("127.0.0.1:1", contract=ORDER_CONTRACT, connections=0)


class TestAsAChannel:
    """The rest of what grpc.aio has a channel do."""

    async def test_it_is_ready_when_all_of_it_is(self) -> None:
        async with serving() as server:
            channel = open_channel(server.target, contract=ORDER_CONTRACT, connections=2)
            assert channel.get_state() is grpc.ChannelConnectivity.IDLE
            changed = asyncio.create_task(
                channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
            )
            async with asyncio.timeout(5):
                await channel.channel_ready()
                await changed
            assert channel.get_state() is grpc.ChannelConnectivity.READY
            await channel.close()
            assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN

    async def test_closed_it_takes_no_calls(self) -> None:
        async with serving() as server:
            async with open_channel(
                server.target, contract=ORDER_CONTRACT, connections=2, health_service=ORDERS
            ) as channel:
                stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
                await stub.GetOrder(GET)
            with pytest.raises(grpc.aio.UsageError):
                await stub.GetOrder(GET)
