"""List and release parked orders (operator commands).

Works on the database, alongside the servers that use it: a released order is taken by any of them.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

from orderflow_server.orders.errors import OrderNotFound
from orderflow_server.orders.ports import OrderStore, ParkedOrder

_PAGE = 1000


class Release(enum.StrEnum):
    """Result of the release of one order."""

    RELEASED = "released"
    NOT_PARKED = "not parked"
    """Another command released it before, or it has been settled or cancelled since."""
    NOT_FOUND = "not found"


async def list_parked(store: OrderStore, *, limit: int, reason: str = "") -> list[dict[str, Any]]:
    """Return the parked orders, longest parked first, each as a JSON object.

    Args:
        store: Where the orders are.
        limit: The most to list.
        reason: Only those whose reason begins with this text.
    """
    return [_described(parked) for parked in await store.parked(limit=limit, reason=reason)]


async def release(
    store: OrderStore, order_ids: Iterable[UUID]
) -> AsyncIterator[tuple[UUID, Release]]:
    """Let the worker ask the gateway about these orders again, with no attempts counted.

    Idempotent: an order that is not parked is left as it is.

    Yields:
        Each order and the result, as soon as it is done.
    """
    for order_id in order_ids:
        if await store.release(order_id):
            yield order_id, Release.RELEASED
            continue
        try:
            await store.get(order_id)
        except OrderNotFound:
            yield order_id, Release.NOT_FOUND
        else:
            yield order_id, Release.NOT_PARKED


async def release_all(
    store: OrderStore, *, reason: str = ""
) -> AsyncIterator[tuple[UUID, Release]]:
    """Release all orders that are parked now, or those whose reason begins with `reason`.

    Yields:
        Each order and the result, as soon as it is done.
    """
    done: set[UUID] = set()
    while True:
        page = await store.parked(limit=_PAGE, reason=reason)
        # An order that is parked again meanwhile is not released a second time.
        order_ids = [parked.order.id for parked in page if parked.order.id not in done]
        if not order_ids:
            return
        async for order_id, result in release(store, order_ids):
            done.add(order_id)
            yield order_id, result


def _described(parked: ParkedOrder) -> dict[str, Any]:
    order = parked.order
    return {
        "order_id": str(order.id),
        "state": order.state.value,
        "reason": parked.reason,
        "attempts": parked.attempts,
        "parked_for_s": round(parked.age.total_seconds(), 3),
        "currency_code": order.total.currency_code,
        "units": order.total.units,
        "nanos": order.total.nanos,
        "payment_key": order.payment_key,
    }
