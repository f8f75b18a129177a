"""The breaker's refusal of a call, as the gRPC error that a server would have sent."""

from __future__ import annotations

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from orderflow_client.resilience.breaker import BreakerOpen
from orderflow_client.status import BREAKER_OPEN, DETAILS_KEY

_DOMAIN = "orderflow"


def rejection_error(refusal: BreakerOpen) -> grpc.aio.AioRpcError:
    """UNAVAILABLE, with the reason BREAKER_OPEN and when to ask again.

    The details are in the trailing metadata, so that code that knows nothing of breakers, such
    as `grpc_status.rpc_status.from_call`, reads them like any other.
    """
    code = grpc.StatusCode.UNAVAILABLE
    retry_delay = Duration()
    retry_delay.FromNanoseconds(round(refusal.retry_after_s * 1e9))
    status = status_pb2.Status(code=code.value[0], message=str(refusal))
    status.details.add().Pack(
        error_details_pb2.ErrorInfo(
            reason=BREAKER_OPEN, domain=_DOMAIN, metadata={"breaker": refusal.name}
        )
    )
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=retry_delay))
    return grpc.aio.AioRpcError(
        code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata((DETAILS_KEY, status.SerializeToString())),
        details=status.message,
    )
