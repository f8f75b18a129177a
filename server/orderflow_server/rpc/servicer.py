"""OrderService: each RPC validated, converted, handed to the domain, and converted back."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any
from uuid import UUID

import grpc

from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc as rpc
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.cancelling import CancelOrder
from orderflow_server.orders.errors import InvalidValue
from orderflow_server.orders.ownership import owned
from orderflow_server.orders.placing import PlaceOrder
from orderflow_server.orders.ports import ChangeFeed, OrderStore
from orderflow_server.orders.watching import watch_order
from orderflow_server.rpc import convert, page_token
from orderflow_server.rpc.validation import RequestValidator
from orderflow_server.rpc.writing import write
from orderflow_server.security.errors import OtherCustomer
from orderflow_server.security.principal import current_principal

Context = grpc.aio.ServicerContext[Any, Any]


class OrderServicer(rpc.OrderServiceServicer):
    """The contract's comments say what each method does; this class only connects.

    Args:
        inline_limit_s: The longest a caller waits for its payment, however late its deadline.
        stalled_stream_s: How long a message of a watch may wait for its caller to read it.
    """

    def __init__(
        self,
        *,
        place_order: PlaceOrder,
        cancel_order: CancelOrder,
        store: OrderStore,
        feed: ChangeFeed,
        validator: RequestValidator,
        inline_limit_s: float,
        stalled_stream_s: float,
    ) -> None:
        self._place_order = place_order
        self._cancel_order = cancel_order
        self._store = store
        self._feed = feed
        self._validator = validator
        self._inline_limit_s = inline_limit_s
        self._stalled_stream_s = stalled_stream_s

    async def CreateOrder(
        self, request: pb.CreateOrderRequest, context: Context
    ) -> pb.CreateOrderResponse:
        del context
        self._validator.check(request)
        only_customer = _only_customer()
        if only_customer not in (None, request.customer_id):
            raise OtherCustomer
        draft = convert.draft_from(request)
        order = await self._place_order(draft, until=self._payment_deadline())
        # They are the order's: one with others would have been refused.
        response = pb.CreateOrderResponse()
        convert.write_order(response.order, order, request.items)
        return response

    async def GetOrder(self, request: pb.GetOrderRequest, context: Context) -> pb.GetOrderResponse:
        del context
        self._validator.check(request)
        order = owned(await self._store.get(UUID(request.order_id)), _only_customer())
        response = pb.GetOrderResponse()
        convert.write_order(response.order, order)
        return response

    async def ListOrders(
        self, request: pb.ListOrdersRequest, context: Context
    ) -> pb.ListOrdersResponse:
        del context
        self._validator.check(request)
        only_customer = _only_customer()
        if only_customer is not None:
            if request.customer_id not in ("", only_customer):
                raise OtherCustomer
            # From here on as if it had been said, which page tokens are bound to.
            try:
                request.customer_id = only_customer
            except ValueError as error:  # A token's name need not be Unicode.
                raise InvalidValue("the token's subject is not valid Unicode") from error
        query = convert.query_from(request)
        orders = await self._store.list(query)
        response = pb.ListOrdersResponse()
        for order in orders:
            convert.write_order(response.orders.add(), order)
        if len(orders) == query.limit:
            response.next_page_token = page_token.encode(orders[-1].id, request)
        return response

    async def CancelOrder(
        self, request: pb.CancelOrderRequest, context: Context
    ) -> pb.CancelOrderResponse:
        del context
        self._validator.check(request)
        order = await self._cancel_order(
            UUID(request.order_id), until=self._payment_deadline(), only_customer=_only_customer()
        )
        response = pb.CancelOrderResponse()
        convert.write_order(response.order, order)
        return response

    async def WatchOrder(  # type: ignore[override]  # gRPC takes a coroutine that writes as well
        self, request: pb.WatchOrderRequest, context: Context
    ) -> None:
        self._validator.check(request)
        orders = watch_order(
            UUID(request.order_id),
            store=self._store,
            feed=self._feed,
            only_customer=_only_customer(),
        )
        async with aclosing(orders):
            async for order in orders:
                response = pb.WatchOrderResponse()
                convert.write_order(response.order, order)
                await write(context, response, timeout_s=self._stalled_stream_s)

    def _payment_deadline(self) -> Deadline:
        """Return the time until which this call may wait for its payment."""
        own = Deadline.after(self._inline_limit_s)
        return deadline.earliest(own, deadline.current()) or own


def _only_customer() -> str | None:
    """Whose orders are all that the caller may see; None: everybody's."""
    return current_principal.get().only_customer
