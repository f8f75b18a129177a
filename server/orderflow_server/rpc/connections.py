"""What a connection may ask of the server, and how long it lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What callers may ask of the server, whoever they are.

    Attributes:
        request_bytes: The largest request that is read.
        metadata_bytes: The largest metadata of a call that is read.
        connections: The most connections; more are closed at once.
        streams_per_connection: The most calls under way on one of them.
        handshake_timeout_s: How long a connection may take to become one.
        connection_age_s: After about this time a connection takes no more calls. None: never.
    """

    request_bytes: int
    metadata_bytes: int
    connections: int
    streams_per_connection: int
    handshake_timeout_s: float
    connection_age_s: float | None


_KEEPALIVE: Sequence[tuple[str, int]] = (
    # The clients ping every 30 s, also without calls (orderflow_client.channel). The library's
    # default calls that abuse and hangs up.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Who is gone without a word, as a machine that lost its network, is noticed (default: 2 h).
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def connection_options(limits: CallerLimits, *, longest_call_s: float) -> list[tuple[str, int]]:
    """The options of gRPC for a server that keeps callers to the limits.

    Args:
        limits: What callers may ask.
        longest_call_s: How long a call may last on a connection that takes no more of them.
    """
    options = [
        *_KEEPALIVE,
        ("grpc.max_receive_message_length", limits.request_bytes),
        # Past the first gRPC refuses some calls and past the second all; here the two are one.
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # Else calls are refused, at random, as soon as the limit is near: of 300 at once on one
        # connection with room for 100 two thirds failed, which would have had to wait.
        ("grpc.http.overload_protection", 0),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_timeout_s * 1000)),
    ]
    if limits.connection_age_s is not None:
        options += [
            # gRPC varies it by a tenth, so that not all connections end at once.
            ("grpc.max_connection_age_ms", round(limits.connection_age_s * 1000)),
            # No call is cut short by it.
            ("grpc.max_connection_age_grace_ms", round(longest_call_s * 1000)),
        ]
    return options
