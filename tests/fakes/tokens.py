"""An issuer of bearer tokens, with keys of its own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

AUDIENCE = "orderflow"


class Issuer:
    """Signs with one key, ES256.

    Args:
        key_id: The key's name; tokens and the set of keys carry it. None: it has none.
    """

    def __init__(self, key_id: str | None = None) -> None:
        self.key_id = key_id
        self._key = ec.generate_private_key(ec.SECP256R1())

    def token(
        self,
        subject: str | None = "alice",
        roles: Any = ("customer",),
        *,
        algorithm: str = "ES256",
        key: Any = None,
        **claims: Any,
    ) -> str:
        """A good token of an hour, but for what is changed; a claim of None is left out."""
        now = int(time.time())
        said = {"sub": subject, "aud": AUDIENCE, "exp": now + 3600, "roles": roles} | claims
        return jwt.encode(
            {name: value for name, value in said.items() if value is not None},
            key or self._key,
            algorithm=algorithm,
            headers=None if self.key_id is None else {"kid": self.key_id},
        )

    @property
    def pem(self) -> bytes:
        """Its public key."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    @property
    def jwk(self) -> dict[str, Any]:
        """The same as a JWK."""
        jwk = dict(ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True))
        return jwk if self.key_id is None else jwk | {"kid": self.key_id, "use": "sig"}

    @property
    def private_jwk(self) -> dict[str, Any]:
        return dict(ECAlgorithm.to_jwk(self._key, as_dict=True))


def write_set(path: Path, *jwks: dict[str, Any]) -> Path:
    """A JWK set; replaced in one go, as whoever rotates keys does."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps({"keys": jwks}))
    return scratch.replace(path)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call that shows the token."""
    return (("authorization", f"Bearer {token}"),)
