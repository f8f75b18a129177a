"""Finds out who calls. What checks the credentials is handed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from orderflow_server.rpc.call import ServerCall
from orderflow_server.rpc.chain import Interceptor, Operation
from orderflow_server.security.errors import RoleMissing, TokenMissing
from orderflow_server.security.principal import Identity, Principal, Role, current_principal

TOKEN_KEY = "authorization"  # noqa: S105  the name of the metadata, no token
_SCHEME = "bearer"
_NOBODY: frozenset[Role] = frozenset()

Authenticate = Callable[[ServerCall], Principal]
"""Says who calls; raises what the error table knows when the credentials are no good."""


def authentication(authenticate: Authenticate) -> Interceptor:
    """Makes the interceptor, which sets `call.principal` and `current_principal`."""

    def identify(call: ServerCall, proceed: Operation) -> Awaitable[Any]:
        call.principal = authenticate(call)
        # Not taken back at the end: the RPC's context ends with its task.
        current_principal.set(call.principal)
        return proceed(call)

    return identify


def anybody(*, trusted: bool) -> Authenticate:
    """Without credentials: everybody is the same anonymous caller, and sees every order.

    Args:
        trusted: Everybody who can reach this server is one of our own.
    """
    principal = Principal("anonymous", trusted=trusted)

    def authenticate(_call: ServerCall) -> Principal:
        return principal

    return authenticate


def bearers(
    identify: Callable[[str], Identity],
    *,
    access: Mapping[str, frozenset[Role]],
    trusted: bool,
) -> Authenticate:
    """Who shows a good token and has a role that the method asks for.

    Args:
        identify: Says who bears a token; raises TokenInvalid or TokenExpired.
        access: The roles that may call each method, by its path. Others: nobody may.
        trusted: Everybody with a token is one of our own; otherwise operators are.
    """

    def authenticate(call: ServerCall) -> Principal:
        identity = identify(_token(call))
        granted_by = identity.roles & access.get(call.method.path, _NOBODY)
        if not granted_by:
            raise RoleMissing
        return identity.principal(granted_by, trusted=trusted)

    return authenticate


def _token(call: ServerCall) -> str:
    for key, value in call.metadata:
        if key == TOKEN_KEY and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == _SCHEME:
                return token.strip()
    raise TokenMissing
