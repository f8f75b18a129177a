"""Watching an order: every version once, in order, without gaps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from uuid import UUID

from orderflow_server.orders.order import Order
from orderflow_server.orders.ownership import owned
from orderflow_server.orders.ports import ChangeFeed, OrderStore


async def watch_order(
    order_id: UUID, *, store: OrderStore, feed: ChangeFeed, only_customer: str | None = None
) -> AsyncGenerator[Order, None]:
    """Yields the order as it is, then each later version, until it is final.

    The feed only says when to look; what changed is read from the store, where the versions
    are numbered without gaps. So a signal that comes twice, late or merged does no harm.

    Args:
        order_id: Which one.
        store: Where it is read.
        feed: Says when.
        only_customer: Only when it is this customer's. None: whoever's.

    Raises:
        OrderNotFound: There is no such order, or it is another customer's.
        FeedClosed: The server is going away; watch again elsewhere.
    """
    with feed.subscribe(order_id) as signal:
        order = owned(await store.get(order_id), only_customer)
        yield order
        while not order.state.is_final:
            await signal.wait()
            for change in await store.changes(order_id, after_version=order.version):
                order = order.at(change)
                yield order
