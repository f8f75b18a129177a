"""Puts the caller's token into the metadata of each attempt: one small class per arity.

gRPC's own call credentials do the same only over TLS, and by way of a thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

AUTHORIZATION_KEY = "authorization"


def bearer_interceptors(header: Callable[[], str]) -> list[grpc.aio.ClientInterceptor]:
    """One for each arity, to be placed where each attempt passes, last of all.

    Args:
        header: Returns the value of the `authorization` header.
    """
    return [
        UnaryUnaryBearer(header),
        UnaryStreamBearer(header),
        StreamUnaryBearer(header),
        StreamStreamBearer(header),
    ]


class _Bearer:
    def __init__(self, header: Callable[[], str]) -> None:
        self._header = header

    def _with_token(self, details: Any) -> Any:
        # A new one: the caller's own must stay as it was. A tuple, which costs a third of grpc's
        # Metadata, is as good here, where no other interceptor follows that wants one.
        metadata = (*(details.metadata or ()), (AUTHORIZATION_KEY, self._header()))
        return details._replace(metadata=metadata)


class UnaryUnaryBearer(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class UnaryStreamBearer(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class StreamUnaryBearer(_Bearer, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request_iterator)


class StreamStreamBearer(_Bearer, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return await continuation(self._with_token(client_call_details), request_iterator)
