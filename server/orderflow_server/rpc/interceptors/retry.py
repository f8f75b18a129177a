"""Runs a handler once more when the store failed it for a moment.

What fails twice is the caller's to try again, after the pushback that it is told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any

from orderflow_client.contract import MethodContract
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import Retry, RetryPolicy, Verdict
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation

POLICY = RetryPolicy(
    max_attempts=2, initial_backoff_s=0.02, max_backoff_s=0.02, backoff_multiplier=1.0
)
"""20 ms: a lost connection is made again in less."""


def retry_once(
    contract: Mapping[str, MethodContract], *, listeners: Sequence[Listener] = ()
) -> Interceptor:
    """Makes the interceptor.

    Args:
        contract: The methods, by path. Those that are idempotent and take and return one message
            are run again: part of a stream has been seen.
        listeners: Told of each second run.
    """
    retries = {
        path: Retry(POLICY, name=path, classify=_verdict, listeners=listeners)
        for path, method in contract.items()
        if method.retryable and not method.streaming
    }

    def retry(call: ServerCall, proceed: Operation) -> Awaitable[Any]:
        policy = retries.get(call.method.path)
        return proceed(call) if policy is None else policy.run(partial(proceed, call))

    return retry


def _verdict(error: Exception) -> Verdict:
    # Not BreakerOpen: that the store is down is known, and the caller is told for how long.
    return Verdict(retryable=isinstance(error, StoreUnavailable))
