"""The guard in front of the service, as the settings want it."""

from __future__ import annotations

from pathlib import Path

import grpc
import structlog

from orderflow_server.descriptors import room_for_connections
from orderflow_server.rpc.connections import CallerLimits
from orderflow_server.rpc.interceptors.authentication import Authenticate, anybody, bearers
from orderflow_server.rpc.server import ACCESS, Guard
from orderflow_server.rpc.tls import server_credentials
from orderflow_server.security.exposure import only_this_machine
from orderflow_server.security.rate_limit import RateLimit, RateLimiter
from orderflow_server.settings import Settings

log = structlog.get_logger("orderflow.security")


def guard_of(settings: Settings) -> Guard:
    """Reads the certificates and keys.

    Raises:
        UnusableFile: One of them cannot be.
    """
    host, _, _ = settings.address.rpartition(":")
    exposed = not only_this_machine(host.strip("[]"))
    if exposed and settings.tls_certificate is None:
        log.warning("serving without TLS where other machines can listen", address=settings.address)
    if exposed and settings.token_keys is None and settings.token_secret is None:
        log.warning("serving without tokens: whoever gets through sees every order")
    rate_limit = None
    if settings.rate_limit_per_s:
        rate_limit = RateLimit(per_s=settings.rate_limit_per_s, burst=settings.rate_limit_burst)
    return Guard(
        authenticate=_authenticate(settings),
        limits=_limits(settings),
        credentials=_credentials(
            settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        ),
        rate_limiter=None if rate_limit is None else RateLimiter(rate_limit),
    )


def _authenticate(settings: Settings) -> Authenticate:
    # Here and below: 18 MB that a server without tokens and TLS does without.
    if settings.token_keys is not None:
        from orderflow_server.security.keys import public_keys

        keys = public_keys(settings.token_keys)
    elif settings.token_secret is not None:
        from orderflow_server.security.keys import shared_secret

        keys = shared_secret(settings.token_secret)
    else:
        return anybody(trusted=settings.trust_callers)
    from orderflow_server.security.tokens import TokenOptions, TokenVerifier

    verifier = TokenVerifier(
        keys.current,
        options=TokenOptions(
            audience=settings.token_audience,
            issuer=settings.token_issuer,
            roles_claim=settings.token_roles_claim,
            leeway_s=settings.token_leeway_s,
        ),
    )
    return bearers(verifier.identify, access=ACCESS, trusted=settings.trust_callers)


def _credentials(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> grpc.ServerCredentials | None:
    if certificate is None or key is None:
        return None
    from orderflow_server.security.certificates import certificates

    return server_credentials(certificates(certificate=certificate, key=key, client_ca=client_ca))


def _limits(settings: Settings) -> CallerLimits:
    return CallerLimits(
        request_bytes=settings.max_request_bytes,
        metadata_bytes=settings.max_metadata_bytes,
        connections=room_for_connections(settings.max_connections),
        streams_per_connection=settings.max_streams_per_connection,
        handshake_timeout_s=settings.handshake_timeout_s,
        connection_age_s=settings.connection_age_s or None,
    )
