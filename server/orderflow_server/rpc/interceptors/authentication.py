"""Finds out who calls. The seam for credentials: what checks them is handed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from orderflow_server.rpc.call import Principal, ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation

Authenticate = Callable[[ServerCall], Awaitable[Principal]]
"""Says who calls; raises what the error table knows when the credentials are no good."""


def authentication(authenticate: Authenticate) -> Interceptor:
    """Makes the interceptor, which sets `call.principal`."""

    async def identify(call: ServerCall, proceed: Operation) -> Any:
        call.principal = await authenticate(call)
        return await proceed()

    return identify


def anybody(*, trusted: bool) -> Authenticate:
    """Without credentials: everybody is the same anonymous caller.

    Args:
        trusted: Everybody who can reach this server is one of our own.
    """
    principal = Principal("anonymous", trusted=trusted)

    async def authenticate(_call: ServerCall) -> Principal:
        return principal

    return authenticate
