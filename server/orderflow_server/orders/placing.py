"""Placing an order: make it durable first, then try to have it paid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from orderflow_server.orders.order import Order, OrderDraft, OrderState
from orderflow_server.orders.ports import Clock, NewOrderId, OrderStore, Settler

if TYPE_CHECKING:
    from orderflow_client.resilience.deadline import Deadline


class PlaceOrder:
    """Places orders, once per request id, and waits a while for their payment.

    Args:
        traceparent: Names the trace of the work under way, for the order to keep.
        lease: How long the background worker leaves a new order alone. Must be longer than a
            caller may wait for the gateway, or the worker would charge alongside the caller
            (harmless because of the payment key, but useless).
    """

    def __init__(
        self,
        *,
        store: OrderStore,
        settler: Settler,
        now: Clock,
        new_order_id: NewOrderId,
        lease: timedelta,
        traceparent: Callable[[], str] = lambda: "",
    ) -> None:
        self._store = store
        self._settler = settler
        self._now = now
        self._new_order_id = new_order_id
        self._lease = lease
        self._traceparent = traceparent

    async def __call__(self, draft: OrderDraft, *, until: Deadline) -> Order:
        """Return the order, paid or declined where that was known by `until`.

        Otherwise it is returned as PENDING_PAYMENT, and is settled later. A repeated request
        id joins the payment that is under way instead of starting another.

        Raises:
            InvalidOrder: The draft breaks a rule; nothing was written.
            RequestIdReused: The request id placed an order with other content.
            StoreOverloaded, StoreUnavailable, DeadlineExpired: From the store. Repeating the
                call with the same request id is safe.
        """
        now = self._now()
        order = Order.place(
            draft, order_id=self._new_order_id(now), now=now, traceparent=self._traceparent()
        )
        stored = await self._store.place(order, lease=self._lease)
        if stored.state is OrderState.PENDING_PAYMENT:
            return await self._settler.settle(stored, until=until)
        return stored
