"""A second way for attempts that the first would fail: one small class per arity.

Innermost, so that each attempt of a call takes the way that is open at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import grpc


class LastResort:
    """Chooses between a channel that asks its servers for their health, and one that does not.

    Args:
        asked: The methods, by their names on the wire, that prefer a healthy server. Others have
            no first way.
        second_way: What calls each method on the channel that does not ask.
    """

    def __init__(self, asked: Container[str], second_way: Mapping[str, Callable[..., Any]]) -> None:
        self._asked = asked
        self._second_way = second_way
        self._first: grpc.aio.Channel | None = None

    def of(self, channel: grpc.aio.Channel) -> None:
        """Says which channel the attempts come over, which was made with the interceptors."""
        self._first = channel

    @property
    def interceptors(self) -> list[grpc.aio.ClientInterceptor]:
        return [
            UnaryUnaryLastResort(self),
            UnaryStreamLastResort(self),
            StreamUnaryLastResort(self),
            StreamStreamLastResort(self),
        ]

    async def send(
        self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        # Annotated as str by the stubs, bytes at run time (grpcio 1.85).
        name: Any = details.method
        method = name.decode() if isinstance(name, bytes) else name
        if method in self._asked and not self._first_would_fail():
            return await continuation(details, request)
        return self._second_way[method](
            request,
            timeout=details.timeout,
            metadata=details.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )

    def _first_would_fail(self) -> bool:
        assert self._first is not None  # noqa: S101  # for mypy: `of` comes before any call
        return self._first.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE


class _LastResort:
    def __init__(self, last_resort: LastResort) -> None:
        self._send = last_resort.send


class UnaryUnaryLastResort(_LastResort, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._send(continuation, client_call_details, request)


class UnaryStreamLastResort(_LastResort, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await self._send(continuation, client_call_details, request)


class StreamUnaryLastResort(_LastResort, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)


class StreamStreamLastResort(_LastResort, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await self._send(continuation, client_call_details, request_iterator)
