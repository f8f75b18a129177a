"""The breaker around a store: while the database is down, nobody waits to find out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from orderflow_client.resilience.breaker import Breaker, Outcome
from orderflow_server.orders.errors import (
    DeadlineExpired,
    OrderError,
    StoreOverloaded,
    StoreUnavailable,
)
from orderflow_server.storage.around import Around

T = TypeVar("T")


def store_outcome(error: Exception) -> Outcome:
    """Classify a failed call for the breaker.

    A refusal such as VersionConflict or InvalidValue is an answer. A full queue and a missed
    deadline are this process's own doing. Any other error is a defect that one order or one call
    meets: counted as a failure it would open the breaker for all others.
    """
    if isinstance(error, StoreUnavailable):
        return Outcome.FAILURE
    if isinstance(error, StoreOverloaded | DeadlineExpired):
        return Outcome.IGNORED
    return Outcome.SUCCESS if isinstance(error, OrderError) else Outcome.IGNORED


def guarded_by(breaker: Breaker) -> Around:
    """Has each call pass the breaker, which may raise BreakerOpen: the store was not asked."""

    async def around(_name: str, call: Callable[[], Awaitable[T]]) -> T:
        return await breaker.run(call)

    return around
