"""Cancelling an order: find out about its payment, then rule it out or give it back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from orderflow_server.orders.errors import PaymentInvalid, VersionConflict
from orderflow_server.orders.order import Order, OrderState
from orderflow_server.orders.ownership import owned
from orderflow_server.orders.ports import Clock, OrderStore, PaymentGateway, Settler
from orderflow_server.orders.settling import after_payment, parking_reason

if TYPE_CHECKING:
    from orderflow_client.resilience.deadline import Deadline


class CancelOrder:
    """Cancels orders; what was charged is refunded.

    The intent to refund (REFUNDING) is durable before the gateway is asked to refund, and a
    pending payment is voided at the gateway before the order is called CANCELLED. So a crash
    between any two steps leaves an order that the background worker can finish.
    """

    def __init__(
        self,
        *,
        store: OrderStore,
        gateway: PaymentGateway,
        settler: Settler,
        now: Clock,
        lease: timedelta,
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._settler = settler
        self._now = now
        self._lease = lease

    async def __call__(
        self, order_id: UUID, *, until: Deadline, only_customer: str | None = None
    ) -> Order:
        """Returns the order as CANCELLED, or as REFUNDING when that took too long.

        Args:
            order_id: Which one.
            until: How long to wait for the refund.
            only_customer: Only when it is this customer's. None: whoever's.

        Raises:
            OrderNotFound: There is no such order, or it is another customer's.
            IllegalTransition: The payment was declined; there is nothing to cancel.
            PaymentUnresolved: Whether a pending order was charged could not be found out;
                the order is as it was.
            PaymentInvalid: The gateway's answer to the void is wrong; the order is parked.
        """
        order = owned(await self._store.get(order_id), only_customer)
        while True:
            if order.state is OrderState.CANCELLED:
                return order
            if order.state is OrderState.REFUNDING:
                return await self._settler.settle(order, until=until)
            order = await self._step(order)

    async def _step(self, order: Order) -> Order:
        """One durable step towards CANCELLED; or the order as somebody else changed it."""
        if order.state is OrderState.PENDING_PAYMENT:
            try:
                following = after_payment(order, await self._gateway.void(order), self._now())
            except PaymentInvalid as error:
                return await self._changed_or_parked(order, error)
        else:
            following = order.refunding(self._now())
        lease = self._lease if following.state.awaits_gateway else None
        try:
            await self._store.save(following, lease=lease)
        except VersionConflict:
            return await self._store.get(order.id)
        return following

    async def _changed_or_parked(self, order: Order, error: PaymentInvalid) -> Order:
        """Return the order as another caller changed it; park it when the answer is just wrong."""
        current = await self._store.get(order.id)
        if current.version != order.version:
            return current
        await self._store.park(order.id, reason=parking_reason(error))
        raise error
