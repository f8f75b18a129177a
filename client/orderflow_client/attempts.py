"""The attempts of one call, as they go out on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from orderflow_client.resilience import deadline
from orderflow_client.status import NeverSent

PREVIOUS_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"

Call = grpc.aio.UnaryUnaryCall[Any, Any]
Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Call]]


class Attempts:
    """Sends one request as often as the policies ask for it, and counts."""

    __slots__ = ("_continuation", "_details", "_request", "_sent")

    def __init__(
        self, continuation: Continuation, details: grpc.aio.ClientCallDetails, request: Any
    ) -> None:
        self._continuation = continuation
        self._details = details
        self._request = request
        self._sent = 0

    async def send(self) -> Call:
        """Makes the next attempt, whether it is the first, a retry or a hedge.

        Returns:
            The call, which has its response: awaited again, it gives the same once more.

        Raises:
            grpc.aio.AioRpcError: How the attempt failed.
        """
        details = attempt_details(self._details, previous=self._sent)
        self._sent += 1
        call = await self._continuation(details, self._request)
        await call  # Its errors must surface here, for the policies to see.
        return call


def attempt_details(
    details: grpc.aio.ClientCallDetails, *, previous: int
) -> grpc.aio.ClientCallDetails:
    """The details for an attempt that comes after `previous` others of the same call.

    Its timeout is what is left of the deadline under way.

    Raises:
        NeverSent: DEADLINE_EXCEEDED, when nothing is left. gRPC itself would still send the
            call, and return its response if that came fast enough (grpcio 1.85).
    """
    remaining_s = deadline.remaining_s()
    if remaining_s is not None and remaining_s <= 0:
        raise NeverSent(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details="the deadline passed before the call was sent",
        )
    metadata = details.metadata
    if previous > 0:
        # A new one: the caller's own must stay as it was.
        metadata = grpc.aio.Metadata(*(metadata or ()), (PREVIOUS_ATTEMPTS_KEY, str(previous)))
    return grpc.aio.ClientCallDetails(
        details.method,
        remaining_s,
        metadata,
        details.credentials,
        details.wait_for_ready,
    )
