"""Page tokens: where a list goes on, bound to what was asked for.

A token is the id the last page ended with and a digest over it and the query. It is opaque, and
it is no secret: somebody who makes one up only chooses where the own list starts.
"""

from __future__ import annotations

import base64
import hashlib
from uuid import UUID

from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.rpc.status import InvalidRequest, Violation

_ID_BYTES = 16
_DIGEST_BYTES = 8


def encode(last: UUID, request: pb.ListOrdersRequest) -> str:
    return base64.urlsafe_b64encode(last.bytes + _digest(last, request)).decode().rstrip("=")


def decode(request: pb.ListOrdersRequest) -> UUID | None:
    """The id to go on after; None for the first page.

    Raises:
        InvalidRequest: The token is not one, or is one of another query.
    """
    token = request.page_token
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        last = UUID(bytes=raw[:_ID_BYTES])
    except ValueError as error:
        raise InvalidRequest([Violation("page_token", "not a page token")]) from error
    if token != encode(last, request):
        raise InvalidRequest(
            [
                Violation(
                    "page_token",
                    "not a token of this query: send the filters of the page before, unchanged",
                )
            ]
        )
    return last


def _digest(last: UUID, request: pb.ListOrdersRequest) -> bytes:
    query = pb.ListOrdersRequest()
    query.CopyFrom(request)
    query.ClearField("page_token")
    query.ClearField("page_size")
    return hashlib.blake2b(
        last.bytes + query.SerializeToString(deterministic=True), digest_size=_DIGEST_BYTES
    ).digest()
