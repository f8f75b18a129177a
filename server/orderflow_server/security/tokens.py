"""Bearer tokens: who signed them, for whom, and until when (RFC 7519, by PyJWT).

A signature is verified once: what it proved is remembered, as long as the keys are the same,
and on later calls a dictionary answers. When a token is good is asked every time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import (
    DecodeError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    MissingRequiredClaimError,
    PyJWTError,
)

from orderflow_server.security.errors import TokenExpired, TokenInvalid
from orderflow_server.security.keys import TokenKeys
from orderflow_server.security.principal import Identity, Role

_LOOK_AT_KEYS_S = 1.0
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """What a good token says.

    Attributes:
        audience: Whom it is for (aud).
        issuer: Who made it (iss). Empty: whoever has a key.
        roles_claim: Where the roles of its subject are: a list, or a text with spaces.
        leeway_s: How far the clocks of the issuer and of this server may be apart.
    """

    audience: str
    issuer: str = ""
    roles_claim: str = "roles"
    leeway_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.audience:
            raise ValueError("an audience is needed: without one any service's token would do")
        if self.leeway_s < 0:
            raise ValueError(f"leeway_s must not be negative, it is {self.leeway_s}")


@dataclass(frozen=True, slots=True)
class _Verified:
    identity: Identity
    not_before_s: float
    expires_s: float


class TokenVerifier:
    """Says who a token's bearer is.

    Args:
        keys: The keys in force. Asked at most once a second.
        options: What a good token says.
        now: Seconds since 1970.
        max_remembered: How many tokens are, at most; the oldest is forgotten first.
    """

    def __init__(
        self,
        keys: Callable[[], TokenKeys],
        *,
        options: TokenOptions,
        now: Callable[[], float] = time.time,
        max_remembered: int = _MAX_REMEMBERED,
    ) -> None:
        self._ask_for_keys = keys
        self._keys = keys()
        self._options = options
        self._now = now
        self._look_at_s = now() + _LOOK_AT_KEYS_S
        self._max_remembered = max_remembered
        self._remembered: dict[str, _Verified] = {}

    def identify(self, token: str) -> Identity:
        """Who bears it.

        Raises:
            TokenInvalid: It is not one for this service.
            TokenExpired: It was.
        """
        now_s = self._now()
        if now_s >= self._look_at_s:
            self._look_at_keys(now_s)
        verified = self._remembered.get(token)
        if verified is None:
            verified = self._verified(token)
            self._remember(token, verified)
        if now_s >= verified.expires_s + self._options.leeway_s:
            self._remembered.pop(token, None)
            raise TokenExpired
        if now_s < verified.not_before_s - self._options.leeway_s:
            raise TokenInvalid("the token is not valid yet")
        return verified.identity

    def _look_at_keys(self, now_s: float) -> None:
        self._look_at_s = now_s + _LOOK_AT_KEYS_S
        keys = self._ask_for_keys()
        if keys is not self._keys:
            # What a key proved that is withdrawn now counts no longer.
            self._keys = keys
            self._remembered.clear()

    def _remember(self, token: str, verified: _Verified) -> None:
        if len(self._remembered) >= self._max_remembered:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[token] = verified

    def _verified(self, token: str) -> _Verified:
        options = self._options
        try:
            claims = self._claims(token)
            return _Verified(
                Identity(claims["sub"], _roles(claims.get(options.roles_claim))),
                not_before_s=_seconds(claims.get("nbf", 0)),
                expires_s=_seconds(claims["exp"]),
            )
        except (PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise TokenInvalid(_what_is_wrong(error)) from error

    def _claims(self, token: str) -> dict[str, Any]:
        options = self._options
        key = self._keys.key_for(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise InvalidSignatureError("no key has the id that the token names")
        required = ["exp", "sub", "aud", *(["iss"] if options.issuer else [])]
        return jwt.decode(
            token,
            key,
            # The key's own, whatever the token says.
            algorithms=[key.algorithm_name],
            audience=options.audience,
            issuer=options.issuer or None,
            # Their time has to be looked at again on every call, so here it is not.
            options={
                "require": required,
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )


def _seconds(claim: Any) -> float:
    """A NumericDate of RFC 7519: JSON as Python reads it knows numbers that never come."""
    if not isinstance(claim, int | float) or not math.isfinite(claim):
        raise ValueError("a time is no number")
    return float(claim)


def _roles(claim: Any) -> frozenset[Role]:
    named = claim.split() if isinstance(claim, str) else claim
    if not isinstance(named, list):
        return frozenset()
    return frozenset(role for role in Role if role in named)


def _what_is_wrong(error: Exception) -> str:
    """For the caller. The library's own texts repeat parts of the token."""
    match error:
        case InvalidAudienceError():
            return "the token is for another audience"
        case InvalidIssuerError():
            return "the token is of another issuer"
        case MissingRequiredClaimError():
            return f"the token lacks the claim {error.claim}"
        case InvalidSignatureError():
            return "the token is signed by nobody known here"
        case DecodeError():
            return "what came is not a token"
        case _:
            return "the token is not one for this service"
