"""Runs a handler once more when the store failed it for a moment.

What fails twice is the caller's to try again, after the pushback that it is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import Retry, RetryPolicy, Verdict
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Execute

POLICY = RetryPolicy(
    max_attempts=2, initial_backoff_s=0.02, max_backoff_s=0.02, backoff_multiplier=1.0
)
"""20 ms: a lost connection is made again in less."""


def retry_once(methods: Collection[str], *, listeners: Sequence[Listener] = ()) -> Execute:
    """Makes what runs the handlers.

    Args:
        methods: The paths of the methods that may be run again: those that are idempotent.
        listeners: Told of each second run.
    """
    retries = {
        path: Retry(POLICY, name=path, classify=_verdict, listeners=listeners) for path in methods
    }

    async def execute(call: ServerCall, operation: Callable[[], Awaitable[Any]]) -> Any:
        retry = retries.get(call.method.path)
        return await (operation() if retry is None else retry.run(operation))

    return execute


def _verdict(error: Exception) -> Verdict:
    # Not BreakerOpen: that the store is down is known, and the caller is told for how long.
    return Verdict(retryable=isinstance(error, StoreUnavailable))
