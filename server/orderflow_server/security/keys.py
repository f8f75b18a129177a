"""The keys that tokens are signed with, from a file: a JWK set, a public key or a shared secret.

Each key is for one algorithm, which follows from the key and never from the token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_encode

from orderflow_server.security.reloading import Reloaded

MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: at least as long as the hash, which for HS256 is 256 bits."""


class TokenKeys:
    """The keys in force.

    Raises:
        ValueError: There are none.
    """

    def __init__(self, keys: Iterable[PyJWK]) -> None:
        self._keys = list(keys)
        if not self._keys:
            raise ValueError("there is no key for signatures in it")
        self._by_id = {key.key_id: key for key in self._keys if key.key_id is not None}

    def key_for(self, key_id: str | None) -> PyJWK | None:
        """The key that a token names; the only one there is, when either has no name."""
        if key_id in self._by_id:
            return self._by_id[key_id]
        if len(self._keys) == 1 and (key_id is None or not self._by_id):
            return self._keys[0]
        return None


def public_keys(path: Path) -> Reloaded[TokenKeys]:
    """From a file with a JWK set (RFC 7517), or with one public key as PEM.

    Raises:
        UnusableFile: It is neither, or holds a private key, which has no business here.
    """
    return Reloaded([path], _public_keys, what="token keys")


def shared_secret(path: Path) -> Reloaded[TokenKeys]:
    """From a file with the secret of HS256; white space around it is not part of it.

    Raises:
        UnusableFile: It cannot be read or is too short.
    """
    return Reloaded([path], _shared_secret, what="token secret")


def _public_keys(contents: Sequence[bytes]) -> TokenKeys:
    text = contents[0].strip()
    if text.startswith(b"{"):
        return TokenKeys(_from_set(json.loads(text)))
    return TokenKeys([_checked(_from_pem(text))])


def _from_set(jwk_set: Any) -> Iterable[PyJWK]:
    members = jwk_set.get("keys") if isinstance(jwk_set, dict) else None
    if not isinstance(members, list):
        raise ValueError("it has no list of keys")  # noqa: TRY004  what a file says is a value
    for member in members:
        if not isinstance(member, dict):
            raise ValueError("a member of its keys is no JWK")  # noqa: TRY004  what a file says is a value
        if "d" in member:
            raise ValueError("it holds a private key; the public one is enough, and safe to lose")
        if member.get("use", "sig") == "sig":
            yield _checked(member)


def _from_pem(text: bytes) -> dict[str, Any]:
    key = load_pem_public_key(text)
    match key:
        case RSAPublicKey():
            return dict(RSAAlgorithm.to_jwk(key, as_dict=True))
        case EllipticCurvePublicKey():
            return dict(ECAlgorithm.to_jwk(key, as_dict=True))
        case Ed25519PublicKey():
            return dict(OKPAlgorithm.to_jwk(key, as_dict=True))
        case _:
            raise ValueError(f"tokens cannot be verified with a {type(key).__name__}")


def _shared_secret(contents: Sequence[bytes]) -> TokenKeys:
    secret = contents[0].strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"the secret must have at least {MIN_SECRET_BYTES} bytes")
    k = base64url_encode(secret).decode()
    return TokenKeys([_checked({"kty": "oct", "alg": "HS256", "k": k})])


def _checked(member: dict[str, Any]) -> PyJWK:
    try:
        key = PyJWK(member)
    except PyJWTError as error:
        # The library's text repeats the key, which may be a secret one.
        raise ValueError(f"a key of type {member.get('kty')!r} cannot be used") from error
    if too_short := key.Algorithm.check_key_length(key.key):
        raise ValueError(too_short)
    return key
