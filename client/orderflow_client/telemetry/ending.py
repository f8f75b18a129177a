"""How a call or an attempt ended, as far as a span, a metric and a log line may tell."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from orderflow_client.ended_call import code_of, trailing_metadata_of
from orderflow_client.status import details_of


@dataclass(frozen=True, slots=True)
class Ending:
    """What may be told. Never the other side's text: it may well quote a card.

    Attributes:
        code: The status.
        reason: ErrorInfo.reason of a status that is not OK. Empty when not said.
        error_type: The type of an exception that is no status. Empty when there was none.
    """

    code: grpc.StatusCode
    reason: str = ""
    error_type: str = ""

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason or self.error_type}".rstrip()


OK = Ending(grpc.StatusCode.OK)


def ending_of_error(error: BaseException) -> Ending:
    """The ending that an exception is.

    What is neither a status nor a cancellation comes of this side, such as metadata that are no
    text; gRPC's own name for it is INTERNAL.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        return Ending(error.code(), details_of(error).reason)
    if isinstance(error, Exception):
        return Ending(grpc.StatusCode.INTERNAL, error_type=type(error).__qualname__)
    return Ending(grpc.StatusCode.CANCELLED)


def ending_of_call(call: grpc.aio.Call) -> Ending:
    """The ending of a call, for its done callback."""
    code = code_of(call)
    if code is grpc.StatusCode.OK:
        return OK
    return ending_of_error(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing_metadata_of(call))
    )
