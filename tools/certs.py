"""Certificates and tokens for development.

Who signs them is forgotten at once: nothing else can be signed by it.

Usage: python tools/certs.py [names of the server, besides localhost]
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DIRECTORY = Path(__file__).resolve().parent.parent / ".certs"
SERVER_NAMES = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=90)
CALLERS = {"alice": "customer", "bob": "customer", "auditor": "auditor", "operator": "operator"}


def write_certificates(directory: Path, names: list[str], *, not_after: datetime) -> None:
    """Writes ca.pem, and for the server and a client a certificate and a key."""
    authority = trustme.CA(organization_name="Orderflow development")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    leaves = {
        "server": authority.issue_cert(*SERVER_NAMES, *names, not_after=not_after),
        "client": authority.issue_cert("client.localhost", not_after=not_after),
    }
    for name, leaf in leaves.items():
        write_secret(directory / f"{name}.key", leaf.private_key_pem.bytes())
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        (directory / f"{name}.pem").write_bytes(chain)


def write_tokens(directory: Path, *, not_after: datetime) -> None:
    """Writes tokens.pem, the key that they are verified with, and a token for each caller."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (directory / "tokens.pem").write_bytes(public)
    for name, role in CALLERS.items():
        claims = {"sub": name, "aud": "orderflow", "exp": not_after, "roles": [role]}
        token = jwt.encode(claims, key, algorithm="ES256")
        write_secret(directory / f"{name}.token", token.encode())


def write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def main(names: list[str]) -> None:
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    not_after = datetime.now(UTC) + LIFETIME
    write_certificates(DIRECTORY, names, not_after=not_after)
    write_tokens(DIRECTORY, not_after=not_after)
    shown = DIRECTORY.name
    print(f"""In {shown}/, for {LIFETIME.days} days. A server with TLS that asks for tokens:

  ORDERFLOW_TLS_CERTIFICATE={shown}/server.pem ORDERFLOW_TLS_KEY={shown}/server.key \\
  ORDERFLOW_TOKEN_KEYS={shown}/tokens.pem make run

Its clients trust {shown}/ca.pem and show one of {shown}/*.token. With
ORDERFLOW_TLS_CLIENT_CA={shown}/ca.pem besides, they must have {shown}/client.pem as well.""")


if __name__ == "__main__":
    main(sys.argv[1:])
