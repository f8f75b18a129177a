"""The policies of the contract on grpc.aio's client side: one small class per arity.

A class that implemented two arities would be registered for unary-unary only, silently. A method
that the contract does not know passes through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from orderflow_client.attempts import Attempts, Continuation, attempt_details
from orderflow_client.guarded_stream import GuardedStream, StreamPermit
from orderflow_client.method_policies import MethodPolicies
from orderflow_client.rejection import rejection_error
from orderflow_client.resilience import deadline
from orderflow_client.resilience.breaker import BreakerOpen, Outcome
from orderflow_client.status import outcome_of


def interceptors(methods: Mapping[str, MethodPolicies]) -> list[grpc.aio.ClientInterceptor]:
    """One interceptor for each arity. They share the policies, which `policies_of` makes."""
    return [
        UnaryUnaryPolicies(methods),
        UnaryStreamPolicies(methods),
        StreamUnaryPolicies(methods),
        StreamStreamPolicies(methods),
    ]


class _Policies:
    def __init__(self, methods: Mapping[str, MethodPolicies]) -> None:
        self._methods = methods

    def _of(self, details: grpc.aio.ClientCallDetails) -> MethodPolicies | None:
        # Annotated as str by the stubs, bytes at run time (grpcio 1.85).
        name: str | bytes = details.method
        return self._methods.get(name.decode() if isinstance(name, bytes) else name)


class UnaryUnaryPolicies(_Policies, grpc.aio.UnaryUnaryClientInterceptor):
    """All policies, around a call with one request and one response."""

    async def intercept_unary_unary(
        self,
        continuation: Continuation,
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        method = self._of(client_call_details)
        if method is None:
            return await continuation(client_call_details, request)
        attempts = Attempts(continuation, client_call_details, request)
        with deadline.within(method.call_deadline(client_call_details.timeout)):
            try:
                return await method.attempts.run(attempts.send)
            except BreakerOpen as refusal:
                raise rejection_error(refusal) from refusal


class _StreamPolicies(_Policies):
    """Deadline and breaker. A stream is not retried: part of it has been seen."""

    async def _begin(
        self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any
    ) -> tuple[Any, StreamPermit | None]:
        method = self._of(details)
        if method is None:
            return await continuation(details, request), None
        with deadline.within(method.call_deadline(details.timeout)):
            attempt = attempt_details(details, previous=0)
            try:
                permit = StreamPermit(method.breaker.acquire())
            except BreakerOpen as refusal:
                raise rejection_error(refusal) from refusal
            try:
                return await continuation(attempt, request), permit
            except BaseException as error:
                permit.settle(
                    outcome_of(error) if isinstance(error, Exception) else Outcome.IGNORED
                )
                raise


class UnaryStreamPolicies(_StreamPolicies, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> grpc.aio.UnaryStreamCall[Any, Any]:
        call, permit = await self._begin(continuation, client_call_details, request)
        return call if permit is None else GuardedStream(call, permit)


class StreamUnaryPolicies(_StreamPolicies, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> grpc.aio.StreamUnaryCall[Any, Any]:
        call: grpc.aio.StreamUnaryCall[Any, Any]
        call, permit = await self._begin(continuation, client_call_details, request_iterator)
        if permit is not None:
            call.add_done_callback(permit.call_ended)
        return call


class StreamStreamPolicies(_StreamPolicies, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Any,
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> grpc.aio.StreamStreamCall[Any, Any]:
        call, permit = await self._begin(continuation, client_call_details, request_iterator)
        return call if permit is None else GuardedStream(call, permit)
