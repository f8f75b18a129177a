"""Gives each call one deadline, the caller's or the method's; refuses calls that come too late."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Mapping
from typing import Any

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import DeadlineExpired
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation


def deadlines(timeouts_s: Mapping[str, float]) -> Interceptor:
    """Makes the interceptor.

    Args:
        timeouts_s: The longest time of each method, by its path. It is the deadline of a call
            that brings none, and the cap of one that does.
    """

    def enforce_deadline(call: ServerCall, proceed: Operation) -> Awaitable[Any]:
        asked = call.deadline
        cap_s = timeouts_s.get(call.method.path)
        remaining_s = math.inf if asked is None else asked.remaining_s()
        if remaining_s <= 0:
            raise DeadlineExpired("the deadline had passed on arrival")
        if cap_s is not None and remaining_s > cap_s:
            return _capped(cap_s, call, proceed)
        # gRPC itself cancels the handler when the caller's own deadline passes.
        deadline.enter(asked)
        return proceed(call)

    return enforce_deadline


async def _capped(cap_s: float, call: ServerCall, proceed: Operation) -> Any:
    deadline.enter(Deadline.after(cap_s))
    limit = asyncio.timeout(cap_s)
    try:
        async with limit:
            return await proceed(call)
    except TimeoutError as error:
        if not limit.expired():
            raise  # The handler's own.
        raise DeadlineExpired(f"the method's limit of {cap_s:g} s passed") from error
