"""Whose order it is, for callers that may see only their own."""

from __future__ import annotations

from orderflow_server.orders.errors import OrderNotFound
from orderflow_server.orders.order import Order


def owned(order: Order, only_customer: str | None) -> Order:
    """The order, when it is the customer's.

    Args:
        order: As it was read: for an order of another's the same work is done as for one that
            does not exist, and the same is said.
        only_customer: None: whoever's.

    Raises:
        OrderNotFound: It is another customer's.
    """
    if only_customer is not None and order.customer_id != only_customer:
        raise OrderNotFound(order.id)
    return order
