"""One RPC as the interceptors see it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc


@dataclass(frozen=True, slots=True)
class Method:
    """A method's name, parsed once.

    Attributes:
        path: As on the wire: `/package.Service/Method`.
    """

    path: str
    service: str
    name: str

    @classmethod
    def parse(cls, path: str) -> Method:
        _, service, name = path.split("/")
        return cls(path, service, name)


class ServerCall:
    """What is known of an RPC under way; the interceptors fill in what they find out.

    Attributes:
        request_id: Names this call in logs and errors: the caller's `x-request-id`, or a new one.
        started_s: `time.perf_counter` when the handler was reached.
        code: The status the call ends with. OK until something else is known.
        reason: ErrorInfo.reason of that status; empty for OK.
        error: What made it so, for the log; None for OK.
    """

    __slots__ = ("code", "context", "error", "method", "reason", "request_id", "started_s")

    def __init__(self, method: Method, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.method = method
        self.context = context
        self.started_s = time.perf_counter()
        self.request_id = _request_id(context)
        self.code = grpc.StatusCode.OK
        self.reason = ""
        self.error: BaseException | None = None


REQUEST_ID_HEADER = "x-request-id"
_REQUEST_ID_MAX = 128


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if (
            key == REQUEST_ID_HEADER
            and isinstance(value, str)
            and 0 < len(value) <= _REQUEST_ID_MAX
        ):
            return value
    return str(uuid4())
