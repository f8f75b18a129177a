"""TLS for the server, with certificates that may change while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    # It loads cryptography, 8 MB that a server without TLS does without.
    from orderflow_server.security.certificates import Certificates
    from orderflow_server.security.reloading import Reloaded


def server_credentials(files: Reloaded[Certificates]) -> grpc.ServerCredentials:
    """Credentials that look at the files with every new connection.

    A connection keeps the certificates that it was made with. Where the files name an authority for
    clients, a client without a certificate of it gets no connection.
    """
    used = files.current()

    # On a thread of gRPC's, before each handshake; None: as before.
    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        current = files.current()
        if current is used:
            return None
        used = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used),
        changed,  # type: ignore[arg-type]  # the stub leaves out None, which gRPC documents
        require_client_authentication=used.client_ca is not None,
    )


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificates.key, certificates.chain)], certificates.client_ca
    )
