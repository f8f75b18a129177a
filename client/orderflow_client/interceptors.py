"""The policies of the contract on grpc.aio's client side: one small class per arity.

A class that implemented two arities would be registered for unary-unary only, silently.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from orderflow_client.contract import MethodContract
from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline, MonotonicClock
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import Retry, RetryBudget
from orderflow_client.status import verdict_on

PREVIOUS_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"


class UnaryUnaryPolicies(grpc.aio.UnaryUnaryClientInterceptor):
    """Deadline and retries around a call with one request and one response.

    From the outside in: one deadline for the whole call, the retries, the deadline of each
    attempt, the wire. A method that the contract does not know passes through untouched.

    Args:
        contract: The methods, by their names on the wire.
        budget: The retry budget of the channel.
        listeners: Told of each retry.
        reserve_s: How much of an ambient deadline a call must leave to its caller.
        sleep: Waits the given seconds.
        random: Uniform over [0, 1), for the jitter.
        clock: What deadlines are measured with.
    """

    def __init__(
        self,
        contract: Mapping[str, MethodContract],
        *,
        budget: RetryBudget,
        listeners: Sequence[Listener] = (),
        reserve_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = _random.random,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._contract = contract
        self._reserve_s = reserve_s
        self._clock = clock
        self._retries = {
            name: Retry(
                method.retry,
                name=name,
                classify=verdict_on,
                budget=budget,
                listeners=listeners,
                sleep=sleep,
                random=random,
                clock=clock,
            )
            for name, method in contract.items()
            if method.retry is not None
        }

    async def intercept_unary_unary(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Any], Awaitable[grpc.aio.UnaryUnaryCall[Any, Any]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        name = _method_name(client_call_details)
        method = self._contract.get(name)
        if method is None:
            return await continuation(client_call_details, request)

        async def attempt(number: int) -> grpc.aio.UnaryUnaryCall[Any, Any]:
            call = await continuation(_attempt_details(client_call_details, number), request)
            # Its errors surface here, for the retry to see. Awaited again by the caller, a
            # finished call gives the same response once more.
            await call
            return call

        # This runs in the call's own task, so nobody else sees the deadline.
        with deadline.within(
            _call_deadline(client_call_details, method, self._reserve_s, self._clock)
        ):
            retry = self._retries.get(name)
            if retry is None:
                return await continuation(_attempt_details(client_call_details, 1), request)
            return await retry.run(attempt)


class UnaryStreamPolicies(grpc.aio.UnaryStreamClientInterceptor):
    """The deadline of a call that is answered with a stream. Streams are not retried here.

    Args:
        contract: The methods, by their names on the wire.
        reserve_s: How much of an ambient deadline a call must leave to its caller.
        clock: What deadlines are measured with.
    """

    def __init__(
        self,
        contract: Mapping[str, MethodContract],
        *,
        reserve_s: float = 0.0,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._contract = contract
        self._reserve_s = reserve_s
        self._clock = clock

    async def intercept_unary_stream(
        self,
        continuation: Callable[
            [grpc.aio.ClientCallDetails, Any], Awaitable[grpc.aio.UnaryStreamCall[Any, Any]]
        ],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> grpc.aio.UnaryStreamCall[Any, Any]:
        method = self._contract.get(_method_name(client_call_details))
        if method is None:
            return await continuation(client_call_details, request)
        with deadline.within(
            _call_deadline(client_call_details, method, self._reserve_s, self._clock)
        ):
            return await continuation(_attempt_details(client_call_details, 1), request)


def _method_name(details: grpc.aio.ClientCallDetails) -> str:
    # Annotated as str by the stubs, bytes at run time (grpcio 1.85).
    method: str | bytes = details.method
    return method.decode() if isinstance(method, bytes) else method


def _call_deadline(
    details: grpc.aio.ClientCallDetails,
    method: MethodContract,
    reserve_s: float,
    clock: MonotonicClock,
) -> Deadline | None:
    """The caller's timeout, else the method's; never past the ambient deadline less the reserve."""
    timeout_s = method.timeout_s if details.timeout is None else details.timeout
    own = None if timeout_s is None else Deadline.after(timeout_s, clock=clock)
    ambient = deadline.current()
    return deadline.earliest(own, ambient and ambient.earlier_by(reserve_s))


def _attempt_details(
    details: grpc.aio.ClientCallDetails, number: int
) -> grpc.aio.ClientCallDetails:
    """The details for attempt `number` (from 1), with what is left of the deadline under way.

    Raises:
        grpc.aio.AioRpcError: DEADLINE_EXCEEDED, when nothing is left. gRPC itself would still
            send the call, and return its response if that came fast enough (grpcio 1.85).
    """
    remaining_s = deadline.remaining_s()
    if remaining_s is not None and remaining_s <= 0:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details="the deadline passed before the call was sent",
        )
    metadata = details.metadata
    if number > 1:
        # A new one: the caller's own must stay as it was.
        metadata = grpc.aio.Metadata(*(metadata or ()), (PREVIOUS_ATTEMPTS_KEY, str(number - 1)))
    return grpc.aio.ClientCallDetails(
        details.method,
        remaining_s,
        metadata,
        details.credentials,
        details.wait_for_ready,
    )
