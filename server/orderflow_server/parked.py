"""Orders that nobody asks the gateway about any more, for the person who looks at them.

Works on the database, beside the servers that use it: a released order is taken up by any of
them. Why an order was parked is in the log of the server that parked it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orderflow_server.orders.ports import OrderStore


async def list_parked(store: OrderStore, *, limit: int) -> list[dict[str, Any]]:
    """The parked orders, longest parked first, each as a JSON object."""
    return [
        {
            "order_id": str(order.id),
            "state": order.state.value,
            "since": order.update_time.isoformat(),
            "currency_code": order.total.currency_code,
            "units": order.total.units,
            "nanos": order.total.nanos,
            "payment_key": order.payment_key,
        }
        for order in (each.order for each in await store.parked(limit=limit))
    ]


async def release(store: OrderStore, order_ids: Sequence[UUID]) -> list[UUID]:
    """Has the gateway asked about these orders again, their attempts counted anew.

    Returns:
        Those that are not parked, or do not exist; nothing was done about them.
    """
    return [order_id for order_id in order_ids if not await store.release(order_id)]
