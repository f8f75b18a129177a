"""What a client needs to speak TLS: whom it trusts, and who it is."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """TLS, and with a certificate of the client's own mutual TLS. The files are PEM.

    They are read when a channel is opened: grpcio (1.85) cannot exchange them later. A program
    that outlives its certificate opens a new channel, or a new `OrderClient`, in time.

    Attributes:
        ca: The authorities that a server's certificate may be of. None: those that gRPC brings
            along.
        certificate: The client's own certificate, then those up to the authority that the server
            knows. None: the client shows none.
        key: The private key of that certificate, not encrypted.
        server_name: The name that the server's certificate must have. None: that in the target.

    Raises:
        ValueError: A certificate without its key, or a key without its certificate.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a TLS certificate of the client's own and its key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files.

        Raises:
            ValueError: One cannot be read, is not PEM, or the key is another certificate's. gRPC
                itself would take them, and then fail every handshake.
        """
        ca = _read(self.ca)
        certificate = _read(self.certificate)
        key = _read(self.key)
        self._check()
        return grpc.ssl_channel_credentials(
            root_certificates=ca, private_key=key, certificate_chain=certificate
        )

    @property
    def options(self) -> list[tuple[str, str]]:
        """What a channel must be told besides."""
        if self.server_name is None:
            return []
        return [("grpc.ssl_target_name_override", self.server_name)]

    def _check(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is not None:
            try:
                context.load_verify_locations(cafile=self.ca)
            except ssl.SSLError as error:
                raise ValueError(f"{self.ca} holds no certificate in PEM") from error
        if self.certificate is not None:
            try:
                # Some password: OpenSSL would ask the terminal for that of an encrypted key.
                context.load_cert_chain(self.certificate, self.key, password="-")  # noqa: S106
            except ssl.SSLError as error:
                raise ValueError(
                    f"{self.certificate} and {self.key} are not a certificate and its key, in PEM "
                    "and not encrypted"
                ) from error


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"the TLS file {path} cannot be read: {error.strerror}") from error
