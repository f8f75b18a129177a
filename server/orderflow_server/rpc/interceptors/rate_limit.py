"""Refuses callers that call more often than they may."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation
from orderflow_server.security.rate_limit import RateLimited, RateLimiter

log = structlog.get_logger("orderflow.security")

LOG_INTERVAL_S = 1.0


def rate_limits(
    limiter: RateLimiter, *, clock: Callable[[], float] = time.monotonic
) -> Interceptor:
    """Makes the interceptor.

    A line for each refusal would cost more than the refusal: there is one a second, with their
    number.

    Args:
        limiter: Keeps count by the caller's name.
        clock: What the second is measured with.
    """
    refused, written_at_s = 0, -math.inf

    def limit(call: ServerCall, proceed: Operation) -> Awaitable[Any]:
        nonlocal refused, written_at_s
        try:
            limiter.take(call.principal.name)
        except RateLimited:
            refused += 1
            now_s = clock()
            if now_s - written_at_s >= LOG_INTERVAL_S:
                log.warning("callers call too often", calls=refused)
                refused, written_at_s = 0, now_s
            raise
        return proceed(call)

    return limit
