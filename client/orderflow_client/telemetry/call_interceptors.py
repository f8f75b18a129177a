"""opentelemetry-instrumentation-grpc's interceptors, around calls and around their attempts.

What is repaired, as of 0.66b2: a span is ended on every ending and exactly once, with the status
that the caller sees: cancellations, timeouts and streams that nobody reads to the end included,
which all had none. A call stays the call it is: a stream of responses was made an iterator. What
the other side or an exception says is kept out of the span. And attributes are worked out only
for spans that are kept.

Two sets of them go around a channel's policies: the outer sees calls, the inner what goes out on
the wire, which is what the server's spans are children of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any

import grpc
from opentelemetry import context, trace
from opentelemetry.instrumentation.grpc._aio_client import (
    StreamStreamAioClientInterceptor,
    StreamUnaryAioClientInterceptor,
    UnaryStreamAioClientInterceptor,
    UnaryUnaryAioClientInterceptor,
)

from orderflow_client.telemetry.call_record import (
    AttemptOrigin,
    AttemptRecord,
    CallRecord,
    call_under_way,
    next_attempt,
)
from orderflow_client.telemetry.channel_records import ChannelRecords
from orderflow_client.telemetry.conventions import grpc_type
from orderflow_client.telemetry.ending import OK, ending_of_error


def around_calls(channel: ChannelRecords) -> Sequence[grpc.aio.ClientInterceptor]:
    """The outermost interceptors, one for each arity."""
    return [
        UnaryUnaryCalls(channel),
        UnaryStreamCalls(channel),
        StreamUnaryCalls(channel),
        StreamStreamCalls(channel),
    ]


def around_attempts(channel: ChannelRecords) -> Sequence[grpc.aio.ClientInterceptor]:
    """The innermost interceptors, one for each arity. They need the outermost ones."""
    return [
        UnaryUnaryAttempts(channel),
        UnaryStreamAttempts(channel),
        StreamUnaryAttempts(channel),
        StreamStreamAttempts(channel),
    ]


_FIRST = AttemptOrigin()


class _During:
    """Makes a record's span the current one; what is raised ends the record."""

    __slots__ = ("_record", "_token")

    def __init__(self, record: CallRecord | AttemptRecord) -> None:
        self._record = record

    def __enter__(self) -> Any:
        self._token = context.attach(trace.set_span_in_context(self._record.span))
        return self._record

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._record.end(ending_of_error(error))
        context.detach(self._token)


class _DuringCall(_During):
    """Besides, makes the record known to the attempts and to the listener."""

    __slots__ = ("_next_attempt", "_outer")

    _record: CallRecord

    def __enter__(self) -> Any:
        self._outer = call_under_way.set(self._record)
        self._next_attempt = next_attempt.set(_FIRST)
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, error, traceback)
        # A call that is only awaited has no task of its own.
        next_attempt.reset(self._next_attempt)
        call_under_way.reset(self._outer)


class _Calls:
    """Overrides the steps of opentelemetry's interceptors, which go on as they are."""

    _grpc_type = grpc_type(request_streaming=False, response_streaming=False)

    def __init__(self, channel: ChannelRecords) -> None:
        super().__init__(channel.tracer)  # type: ignore[call-arg]  # opentelemetry's, by the MRO
        self._channel = channel

    def _start_interceptor_span(self, method: str | bytes) -> _During:
        # Annotated as str by the stubs, bytes at run time (grpcio 1.85).
        path = method.decode() if isinstance(method, bytes) else method
        return _DuringCall(self._channel.begin_call(path, self._grpc_type))

    @staticmethod
    def propagate_trace_in_details(
        client_call_details: grpc.aio.ClientCallDetails,
    ) -> grpc.aio.ClientCallDetails:
        return client_call_details  # Each attempt propagates itself.

    async def _wrap_unary_response(
        self, continuation: Callable[[], Awaitable[Any]], _record: CallRecord
    ) -> Any:
        return await continuation()

    def _wrap_stream_response(self, _record: CallRecord, call: Any) -> Any:
        # Its one attempt ends the record when the call ends.
        return call


class UnaryUnaryCalls(_Calls, UnaryUnaryAioClientInterceptor):
    async def _wrap_unary_response(
        self, continuation: Callable[[], Awaitable[Any]], record: CallRecord
    ) -> Any:
        call = await continuation()
        record.end(OK)
        return call


class UnaryStreamCalls(_Calls, UnaryStreamAioClientInterceptor):
    _grpc_type = grpc_type(request_streaming=False, response_streaming=True)


class StreamUnaryCalls(_Calls, StreamUnaryAioClientInterceptor):
    _grpc_type = grpc_type(request_streaming=True, response_streaming=False)


class StreamStreamCalls(_Calls, StreamStreamAioClientInterceptor):
    _grpc_type = grpc_type(request_streaming=True, response_streaming=True)


class _Attempts:
    """Overrides the steps of opentelemetry's interceptors, which go on as they are."""

    def __init__(self, channel: ChannelRecords) -> None:
        super().__init__(channel.tracer)  # type: ignore[call-arg]  # opentelemetry's, by the MRO
        self._channel = channel

    def _start_interceptor_span(self, _method: str | bytes) -> _During:
        call = call_under_way.get()
        assert call is not None  # noqa: S101  # for mypy: the outer interceptor has set it
        return _During(self._channel.begin_attempt(call))

    async def _wrap_unary_response(
        self, continuation: Callable[[], Awaitable[Any]], record: AttemptRecord
    ) -> Any:
        call = await continuation()
        call.add_done_callback(record.end_with_call)
        return call

    def _wrap_stream_response(self, record: AttemptRecord, call: Any) -> Any:
        # Holds the record alone: a stream that is forgotten must not be kept alive.
        call.add_done_callback(record.end_with_call)
        return call


class UnaryUnaryAttempts(_Attempts, UnaryUnaryAioClientInterceptor):
    async def _wrap_unary_response(
        self, continuation: Callable[[], Awaitable[Any]], record: AttemptRecord
    ) -> Any:
        call = await continuation()
        await call  # Its errors must surface here, for the record to see.
        record.end(OK)
        return call


class UnaryStreamAttempts(_Attempts, UnaryStreamAioClientInterceptor):
    pass


class StreamUnaryAttempts(_Attempts, StreamUnaryAioClientInterceptor):
    pass


class StreamStreamAttempts(_Attempts, StreamStreamAioClientInterceptor):
    pass
