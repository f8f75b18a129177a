"""Certificates as files, as a server and its clients are given them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import trustme


@dataclass(frozen=True)
class Files:
    """Where a server's certificates are."""

    directory: Path

    @property
    def settings(self) -> dict[str, Path]:
        return {
            "tls_certificate": self.directory / "tls.crt",
            "tls_key": self.directory / "tls.key",
        }

    @property
    def client_ca(self) -> Path:
        return self.directory / "clients.crt"

    def write(self, leaf: trustme.LeafCert) -> None:
        """Replaces the server's certificate and key."""
        self.settings["tls_certificate"].write_bytes(chain(leaf))
        leaf.private_key_pem.write_to_path(self.settings["tls_key"])


def chain(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def expired(ca: trustme.CA, name: str) -> trustme.LeafCert:
    return ca.issue_cert(name, not_after=datetime(2020, 1, 1, tzinfo=UTC))


def trusting(
    ca: trustme.CA | None, leaf: trustme.LeafCert | None = None
) -> grpc.ChannelCredentials:
    """A client's credentials.

    Args:
        ca: Whom it trusts.
        leaf: The certificate that it shows. None: none.
    """
    return grpc.ssl_channel_credentials(
        None if ca is None else ca.cert_pem.bytes(),
        None if leaf is None else leaf.private_key_pem.bytes(),
        None if leaf is None else chain(leaf),
    )
