"""The server's certificate and whose clients' certificates it accepts, from PEM files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from orderflow_server.security.reloading import Reloaded


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server needs for TLS, as PEM.

    Attributes:
        chain: Its certificate, then those up to the authority that its clients know.
        key: The private key. Kept out of `repr`, as everything here is.
        client_ca: The authorities of the clients' certificates. None: clients need none.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def certificates(
    *, certificate: Path, key: Path, client_ca: Path | None = None
) -> Reloaded[Certificates]:
    """Reads the files now, and again when they change.

    Raises:
        UnusableFile: One cannot be read, is no PEM, or the key is another certificate's.
    """
    paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]
    return Reloaded(paths, _load, what="TLS certificate")


def _load(contents: Sequence[bytes]) -> Certificates:
    chain, key, *rest = contents
    first, *_ = x509.load_pem_x509_certificates(chain)
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError as error:
        raise ValueError("the private key is encrypted") from error
    # gRPC would take a pair that does not fit, and then fail every handshake.
    if _public_bytes(first.public_key()) != _public_bytes(private.public_key()):
        raise ValueError("the private key is not that of the certificate")
    client_ca = rest[0] if rest else None
    if client_ca is not None:
        x509.load_pem_x509_certificates(client_ca)
    return Certificates(chain, key, client_ca)


def _public_bytes(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
