"""The only place where a channel is made."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import grpc

from orderflow_client.contract import MethodContract
from orderflow_client.interceptors import UnaryStreamPolicies, UnaryUnaryPolicies
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import RetryBudget

KEEPALIVE_TIME_MS = 30_000
"""How often a channel with calls under way pings. A server that allows pings less often
(by default every 5 minutes) hangs up: ours set `grpc.http2.min_ping_interval_without_data_ms`
below this."""

MAX_REQUEST_BYTES = 1024 * 1024
"""The server's limit; what is larger fails here, without being sent."""

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Enough for a page of 1000 orders with 100 items each."""

_OPTIONS: Sequence[tuple[str, int]] = (
    # Ours are the retries that count, so that each attempt can be seen.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a watch may be silent for long
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    # A restarted server is found again fast: the defaults are 1 s, growing to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # What one connection attempt gets, handshake included, before it is given up (default 20 s).
    ("grpc.min_reconnect_backoff_ms", 1_000),
)


def open_channel(
    target: str,
    *,
    contract: Mapping[str, MethodContract],
    credentials: grpc.ChannelCredentials | None = None,
    listeners: Sequence[Listener] = (),
    reserve_s: float = 0.0,
) -> grpc.aio.Channel:
    """Opens a channel whose calls keep to the contract: deadlines, retries, retry budget.

    Args:
        target: Where to, such as `127.0.0.1:50051` or `dns:///orders.example:443`.
        contract: How each method behaves, from `contracts`. Others pass through untouched.
        credentials: TLS. None: plaintext.
        listeners: Told of each retry.
        reserve_s: How much of an ambient deadline (`deadline.current()`) a call must leave
            to its caller.

    Raises:
        RuntimeError: When no event loop runs: the channel would belong to none.
    """
    asyncio.get_running_loop()
    options = [*_OPTIONS, ("grpc.primary_user_agent", f"orderflow-client/{_version()}")]
    interceptors = [
        UnaryUnaryPolicies(
            contract, budget=RetryBudget(), listeners=listeners, reserve_s=reserve_s
        ),
        UnaryStreamPolicies(contract, reserve_s=reserve_s),
    ]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, credentials, options, interceptors=interceptors)


def _version() -> str:
    return version("orderflow-client")
