"""Refuses the calls that could not be served in time, the least critical first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orderflow_client.contract import MethodContract
from orderflow_client.resilience.events import Criticality
from orderflow_client.resilience.limiter import Limiter
from orderflow_client.resilience.waiting import Waited, count_in
from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation

CRITICALITY_HEADER = "x-criticality"


def admission(
    contract: Mapping[str, MethodContract],
    *,
    unary: Limiter,
    streams: Limiter,
) -> Interceptor:
    """Makes the interceptor.

    Args:
        contract: How critical each method is, by its path.
        unary: Limits the calls with one response.
        streams: Limits those with a stream of them, which last long and cost little.
    """

    async def admit(call: ServerCall, proceed: Operation) -> Any:
        method = contract.get(call.method.path)
        criticality = Criticality.DEFAULT if method is None else method.criticality
        if call.principal.trusted:
            # Where anybody may say so, everybody's calls are soon critical.
            criticality = _asked_for(call) or criticality
        limiter = streams if method is not None and method.response_streaming else unary
        waited = Waited()
        with limiter.acquire_at_once(criticality) or await limiter.acquire(criticality) as permit:
            count_in(waited)
            response = await proceed(call)
            # A slow gateway is no overload of this server.
            permit.release(waited_s=waited.total_s)
            return response

    return admit


def _asked_for(call: ServerCall) -> Criticality | None:
    for key, value in call.metadata:
        if key == CRITICALITY_HEADER and isinstance(value, str):
            return Criticality.__members__.get(value.upper())
    return None
