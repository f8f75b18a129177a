"""What the store's engine tells after a transaction."""

from __future__ import annotations

from collections.abc import Sequence

from orderflow_server.orders.order import Order
from orderflow_server.storage.engine import BatchEnded


def batch_ended(
    *changed: Order,
    size: int | None = None,
    error: Exception | None = None,
    origins: Sequence[object] = (),
    duration_s: float = 0.004,
) -> BatchEnded:
    """A batch that wrote those versions, in as many commands unless `size` says otherwise."""
    return BatchEnded(
        size=len(changed) if size is None else size,
        changed=changed,
        origins=origins,
        error=error,
        waiting=0,
        began_s=1_000.0,
        duration_s=duration_s,
    )
