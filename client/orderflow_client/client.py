"""The client people use: one method per RPC, typed errors, and a little comfort on top."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orderflow.v1 import order_pb2, order_service_pb2, order_service_pb2_grpc
from orderflow_client.bearer import TokenSource
from orderflow_client.channel import open_channel
from orderflow_client.contract import contracts
from orderflow_client.errors import Overloaded, Unavailable, from_rpc_error
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import Retry, RetryPolicy, Verdict
from orderflow_client.tls import ClientTls

if TYPE_CHECKING:
    # Only who asks for it needs what it is made of.
    from orderflow_client.telemetry import ClientTelemetry

_SERVICE = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]

ORDER_CONTRACT = contracts(_SERVICE)
"""What the protobuf contract says about each method of OrderService."""

UNSETTLED_STATES = frozenset(
    {order_pb2.ORDER_STATE_PENDING_PAYMENT, order_pb2.ORDER_STATE_REFUNDING}
)
"""States that an order leaves by itself, once the payment gateway has answered."""

_RECONNECT = RetryPolicy(
    max_attempts=1_000_000,  # the deadline ends it
    initial_backoff_s=0.1,
    max_backoff_s=2.0,
    backoff_multiplier=2.0,
)


class OrderClient:
    """A client of OrderService.

        async with OrderClient("127.0.0.1:50051") as client:
            order = await client.create_order(...)

    Every call has a deadline (`timeout_s`, else the method's own from the contract, never
    later than `deadline.current()`), is retried and raced within it where the contract says so,
    is refused at once while the server keeps failing, and raises an `OrderflowError` when it
    fails for good. Of several servers it calls the healthy ones in turn.

    Args:
        target: The server's address, or a channel to it that `open_channel` made. A channel
            that was given is left open.
        tls: TLS, for an address, as all that follows. None: plaintext.
        token: Who calls: a token, the path of a file that holds one, or what returns one. In
            plaintext it is sent to this machine only. None: not said.
        connections: How many to each server. More than one spreads the calls over the workers of
            a server that has several.
        listeners: Told of retries, hedges and breakers.
        telemetry: Sees every call: `orderflow_client.telemetry`. None: nobody does.

    Raises:
        RuntimeError: For an address, when no event loop runs.
        ValueError: For an address, as `open_channel` says.
    """

    def __init__(
        self,
        target: str | grpc.aio.Channel,
        *,
        tls: ClientTls | None = None,
        token: TokenSource | None = None,
        connections: int = 1,
        listeners: Sequence[Listener] = (),
        telemetry: ClientTelemetry | None = None,
    ) -> None:
        self._owned_channel: grpc.aio.Channel | None = None
        if isinstance(target, str):
            channel = self._owned_channel = open_channel(
                target,
                contract=ORDER_CONTRACT,
                tls=tls,
                token=token,
                health_service=_SERVICE.full_name,
                connections=connections,
                listeners=listeners,
                telemetry=telemetry,
            )
        else:
            channel = target
        self._orders: order_service_pb2_grpc.OrderServiceAsyncStub = (
            order_service_pb2_grpc.OrderServiceStub(channel)
        )
        self._health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]  # generated

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the calls under way and closes the channel, unless it was given."""
        if self._owned_channel is not None:
            await self._owned_channel.close()

    async def create_order(
        self,
        *,
        customer_id: str,
        items: Sequence[order_pb2.OrderItem],
        payment_token: str,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> order_pb2.Order:
        """Places an order and tries to pay it.

        The order may be returned as PENDING_PAYMENT; `wait_until_settled` waits for the rest.

        Args:
            customer_id: Who the order is for.
            items: What is ordered; see `item`.
            payment_token: What to charge.
            request_id: A UUID: the same one with the same content is the same order, however
                often it is sent. None: a new one.
            timeout_s: For the call with all its retries.

        Raises:
            InvalidRequest: A field breaks a rule of the contract.
            Conflict: The request_id already placed an order with other content.
        """
        request = order_service_pb2.CreateOrderRequest(
            request_id=request_id or str(uuid.uuid4()),
            customer_id=customer_id,
            items=items,
            payment_token=payment_token,
        )
        with _typed_errors():
            return (await self._orders.CreateOrder(request, timeout=timeout_s)).order

    async def get_order(self, order_id: str, *, timeout_s: float | None = None) -> order_pb2.Order:
        """Reads one order.

        Raises:
            NotFound: There is none.
        """
        request = order_service_pb2.GetOrderRequest(order_id=order_id)
        with _typed_errors():
            return (await self._orders.GetOrder(request, timeout=timeout_s)).order

    async def cancel_order(
        self, order_id: str, *, timeout_s: float | None = None
    ) -> order_pb2.Order:
        """Cancels an order; a paid one is refunded.

        Raises:
            NotFound: There is none.
            Conflict: It was declined, there is nothing to cancel.
            Unavailable: Whether it was charged could not be found out; it is as it was.
        """
        request = order_service_pb2.CancelOrderRequest(order_id=order_id)
        with _typed_errors():
            return (await self._orders.CancelOrder(request, timeout=timeout_s)).order

    async def list_orders_page(
        self,
        *,
        customer_id: str = "",
        states: Sequence[order_pb2.OrderState.ValueType] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
        page_token: str = "",
        timeout_s: float | None = None,
    ) -> order_service_pb2.ListOrdersResponse:
        """One page of orders, newest first, and the token of the next.

        Args:
            customer_id: Only this customer's. Empty: everybody's.
            states: Only in one of these. Empty: in any.
            created_after: Only created at or after. None: no bound.
            created_before: Only created before. None: no bound.
            page_size: The most to return. 0: the server chooses.
            page_token: `next_page_token` of the page before. Empty: from the newest.
            timeout_s: For the call with all its retries.

        Raises:
            ValueError: A time without a time zone.
        """
        request = order_service_pb2.ListOrdersRequest(
            page_size=page_size,
            page_token=page_token,
            customer_id=customer_id,
            states=states,
            created_after=_timestamp(created_after),
            created_before=_timestamp(created_before),
        )
        with _typed_errors():
            return await self._orders.ListOrders(request, timeout=timeout_s)

    async def list_orders(
        self,
        *,
        customer_id: str = "",
        states: Sequence[order_pb2.OrderState.ValueType] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[order_pb2.Order]:
        """All orders, newest first, read page by page while they are consumed.

        Args are those of `list_orders_page`; `timeout_s` is for each page.
        """
        page_token = ""
        while True:
            page = await self.list_orders_page(
                customer_id=customer_id,
                states=states,
                created_after=created_after,
                created_before=created_before,
                page_size=page_size,
                page_token=page_token,
                timeout_s=timeout_s,
            )
            for order in page.orders:
                yield order
            page_token = page.next_page_token
            if not page_token:
                return

    async def watch_order(
        self, order_id: str, *, timeout_s: float | None = None
    ) -> AsyncIterator[order_pb2.Order]:
        """The order as it is, then each change, until it is final.

        A PAID order can still be cancelled, so its watch goes on: who only waits for the
        payment stops there, or uses `wait_until_settled`.

        Raises:
            NotFound: There is none.
            Unavailable: The connection was lost; a new watch begins with the order as it then is.
            DeadlineExceeded: The time is up (after an hour when none is given).
        """
        request = order_service_pb2.WatchOrderRequest(order_id=order_id)
        call = self._orders.WatchOrder(request, timeout=timeout_s)
        try:
            with _typed_errors():
                async for response in call:
                    yield response.order
        finally:
            call.cancel()

    async def wait_until_settled(
        self, order_id: str, *, timeout_s: float = 30.0
    ) -> order_pb2.Order:
        """Waits until the order rests: it is neither PENDING_PAYMENT nor REFUNDING.

        Lost connections are made again while there is time.

        Raises:
            NotFound: There is none.
            DeadlineExceeded: It did not settle in time.
            Unavailable: The server was not to be reached at the end of that time.
        """

        async def watch() -> order_pb2.Order:
            async for order in self.watch_order(order_id):
                if order.state not in UNSETTLED_STATES:
                    return order
            raise Unavailable(
                "the watch ended before the order settled", code=grpc.StatusCode.UNAVAILABLE
            )

        reconnect = Retry(_RECONNECT, name="wait_until_settled", classify=_reconnect_verdict)
        with deadline.within(deadline.earliest(deadline.current(), Deadline.after(timeout_s))):
            return await reconnect.run(watch)

    async def health(self, service: str = "", *, timeout_s: float = 2.0) -> str:
        """What the server says of its health, such as `SERVING` or `NOT_SERVING`.

        Args:
            service: Which of its services. Empty: the server as a whole.
            timeout_s: For the call.

        Raises:
            NotFound: It has no such service.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        with _typed_errors():
            response = await self._health.Check(request, timeout=timeout_s)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def item(sku: str, quantity: int, unit_price: Money) -> order_pb2.OrderItem:
    """One line of an order: `item("SKU-1", 2, money("12.50", "EUR"))`."""
    return order_pb2.OrderItem(sku=sku, quantity=quantity, unit_price=unit_price)


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def _reconnect_verdict(error: Exception) -> Verdict:
    if isinstance(error, Unavailable | Overloaded):
        return Verdict(retryable=True, pushback_s=error.retry_delay_s)
    return Verdict(retryable=False)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
