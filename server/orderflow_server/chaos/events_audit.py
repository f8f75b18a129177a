"""What NATS delivered, compared with the orders: each change of each order once, in its order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from orderflow_client.events import order_events

_COMING_S = 20.0
"""How long to wait for the next event while some are missing: longer than a lease of the relay."""
_NO_MORE_S = 1.0
"""And when all are there, for one too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsAudit:
    """What does not add up, as the ids of orders; all empty when everything does.

    Attributes:
        lost: Not every version was published.
        twice: One came again, to a consumer that knows events by their ids.
        disordered: One came before the version that it follows.
        unknown: Of no order of ours, or of a version that it never had.
    """

    lost: Sequence[str] = field(default_factory=list)
    twice: Sequence[str] = field(default_factory=list)
    disordered: Sequence[str] = field(default_factory=list)
    unknown: Sequence[str] = field(default_factory=list)


def audit_events(*, versions: Mapping[str, int], seen: Mapping[str, Sequence[int]]) -> EventsAudit:
    """Compares every order with its events.

    Args:
        versions: The version of each order; its first is 1.
        seen: The versions in each order's events, as they came.
    """
    return EventsAudit(
        lost=[
            order
            for order, version in versions.items()
            if not set(range(1, version + 1)) <= set(seen.get(order, ()))
        ],
        twice=[order for order, came in seen.items() if len(set(came)) < len(came)],
        disordered=[order for order, came in seen.items() if _first_times(came) != sorted({*came})],
        unknown=[order for order, came in seen.items() if max(came) > versions.get(order, 0)],
    )


def _first_times(came: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(came))


async def published_events(url: str, *, wanted: int) -> Mapping[str, Sequence[int]]:
    """The versions in each order's events, as a consumer gets them that knows events by their ids.

    Reads until so many have come and no more do, or none has come for 20 s.

    Args:
        url: Of the NATS server.
        wanted: How many there should be.

    Raises:
        OrderflowError: There is no stream of events.
    """
    seen: dict[str, list[int]] = defaultdict(list)
    count = 0
    loop = asyncio.get_running_loop()
    async with aclosing(order_events([url], from_start=True)) as events:
        try:
            async with asyncio.timeout(_COMING_S) as patience:
                async for event in events:
                    seen[event.order.id].append(event.order.version)
                    count += 1
                    patience.reschedule(loop.time() + (_COMING_S if count < wanted else _NO_MORE_S))
        except TimeoutError:
            pass  # Nothing more comes, which is how a stream ends.
    return seen
