"""List, retry and skip refused events (operator commands)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orderflow_server.orders.ports import Outbox


async def list_refused(outbox: Outbox, *, limit: int) -> list[dict[str, Any]]:
    """Return the oldest refused events, each as a JSON object."""
    return [
        {
            "sequence": event.sequence,
            "order_id": str(event.order_id),
            "version": event.version,
            "state": event.state.value,
            "reason": event.reason,
            "refused_for_s": round(event.age.total_seconds(), 3),
        }
        for event in await outbox.refused(limit=limit)
    ]


async def retry(outbox: Outbox, sequences: Sequence[int] | None) -> list[dict[str, Any]]:
    """Make refused events ready to be published again; None: all. Idempotent.

    Returns:
        The result for each event as a JSON object: retried, or not refused (any more).
    """
    return _results(sequences, await outbox.retry_refused(sequences), "retried")


async def skip(outbox: Outbox, sequences: Sequence[int]) -> list[dict[str, Any]]:
    """Give up refused events, so that later versions of their orders are published. Idempotent.

    Returns:
        The result for each event as a JSON object: skipped, or not refused (any more).
    """
    return _results(sequences, await outbox.skip_refused(sequences), "skipped")


def _results(asked: Sequence[int] | None, done: Sequence[int], result: str) -> list[dict[str, Any]]:
    as_asked = set(done)
    return [
        {"sequence": sequence, "result": result if sequence in as_asked else "not refused"}
        for sequence in (done if asked is None else asked)
    ]
