"""One RPC as the interceptors see it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.trace import INVALID_SPAN_CONTEXT, format_trace_id

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.security.principal import Principal

# To look a member up in its enumeration takes as long as a call.
OK = grpc.StatusCode.OK

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Method:
    """A method's name, parsed once.

    Attributes:
        path: As on the wire: `/package.Service/Method`.
        full_name: The same without the first slash, as spans are called.
    """

    path: str
    full_name: str
    service: str
    name: str

    @classmethod
    def parse(cls, path: str) -> Method:
        _, service, name = path.split("/")
        return cls(path, f"{service}/{name}", service, name)


UNKNOWN_METHOD = Method.parse("/other/other")
"""Stands for every method that there is not: their names are the callers' to choose."""


NOBODY = Principal("", trusted=False)
"""Who calls is not known yet."""


class ServerCall:
    """What is known of an RPC under way; the interceptors fill in what they find out.

    Attributes:
        request: As gRPC hands it over: the bytes of the one message, or a stream of messages.
        metadata: What the caller sent along.
        request_id: Names this call in logs and errors: the caller's `x-request-id`, or a new one.
        span: Its span's identity; an invalid one until it has a span.
        kept: Its trace is kept.
        started_s: `time.perf_counter` when the handler was reached.
        deadline: The caller's, read once on entry; None when it has none.
        failed: An error is on its way out, and has not been replaced by a response.
        code: The status the call ends with, as far as is known. What passes an error on and wants
            to know what becomes of it asks `settle` first.
        principal: Who calls, once that is known.
        reason: ErrorInfo.reason of that status; empty for OK.
        error: What made it so, for the log; None for OK.
    """

    __slots__ = (
        "_cancellation",
        "_timeout_s",
        "code",
        "context",
        "deadline",
        "error",
        "failed",
        "kept",
        "metadata",
        "method",
        "principal",
        "reason",
        "request",
        "request_id",
        "span",
        "started_s",
    )

    def __init__(
        self,
        method: Method,
        context: grpc.aio.ServicerContext[Any, Any],
        request: Any = None,
        metadata: Metadata | None = None,
    ) -> None:
        self.method = method
        self.request = request
        self.context = context
        self.started_s = time.perf_counter()
        # Read once: gRPC makes it anew each time.
        self.metadata: Metadata = (
            context.invocation_metadata() or () if metadata is None else metadata
        )
        self.request_id = _request_id(self.metadata)
        self.span = INVALID_SPAN_CONTEXT
        self.kept = False
        # None without a deadline; the stub does not know.
        remaining_s: float | None = context.time_remaining()
        self.deadline = None if remaining_s is None else Deadline(time.monotonic() + remaining_s)
        self.code = OK
        self.failed = False
        self.principal = NOBODY
        self.reason = ""
        self.error: BaseException | None = None
        self._timeout_s = remaining_s or 0.0
        self._cancellation: grpc.StatusCode | None = None

    @property
    def trace_id(self) -> str:
        """Names all that belongs together, here and elsewhere; empty without a span."""
        return format_trace_id(self.span.trace_id) if self.span.is_valid else ""

    def returned(self, code: grpc.StatusCode | None) -> None:
        """The handler returned, after it had set the status; None: it did not."""
        self.failed = False
        self.code = OK if code is None else code

    def settle(self, error: BaseException) -> None:
        """Sets `code` to what goes over the wire when the call ends with `error`.

        A deadline and a cancellation by the caller both arrive as a CancelledError. Which of the
        two it was is decided when it is first seen: cleaning up may take until the deadline.
        """
        self.failed = True
        if isinstance(error, asyncio.CancelledError):
            if self._cancellation is None:
                self._cancellation = self._kind_of_cancellation()
            self.code = self._cancellation
        else:
            # An abort has set the status. Any other error goes out as UNKNOWN, unless the handler
            # set a status before it failed.
            self.code = status_set(self.context) or grpc.StatusCode.UNKNOWN

    def _kind_of_cancellation(self) -> grpc.StatusCode:
        own, nearer = self.deadline, deadline.current()
        if (own is not None and own.remaining_s() <= _slack_s(self._timeout_s)) or (
            nearer is not None and nearer.expired
        ):
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.CANCELLED


def status_set(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode | None:
    """The status that an abort or `set_code` gave the call; None when that is OK or nothing."""
    # None before it is set, and a number when it was set as one; the stub does not know.
    code: object = context.code()
    if code is None or code is OK:
        return None
    if isinstance(code, int):
        code = _BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
    if isinstance(code, grpc.StatusCode) and code is not OK:
        return code
    return None


def _slack_s(timeout_s: float) -> float:
    """How long before its deadline a call that is cancelled has run out of time.

    The caller's own timer ends its call, and that reaches the server as a cancellation, before the
    server's deadline: a timeout is rounded up on the wire, by as much as a percent, and counts
    from when it arrives. 20 ms: what a busy machine takes to read it.
    """
    return 0.01 * timeout_s + min(0.02, 0.25 * timeout_s)


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

REQUEST_ID_HEADER = "x-request-id"
TRACE_ID_HEADER = "x-trace-id"
_REQUEST_ID_MAX = 128


def _request_id(metadata: Metadata) -> str:
    for key, value in metadata:
        if (
            key == REQUEST_ID_HEADER
            and isinstance(value, str)
            and 0 < len(value) <= _REQUEST_ID_MAX
        ):
            return value
    # Not a UUID, which takes ten times as long: it need only differ from the others in a log.
    return random.getrandbits(128).to_bytes(16, "big").hex()
