"""The only place where a channel is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from orderflow_client.contract import MethodContract
from orderflow_client.interceptors import interceptors
from orderflow_client.method_policies import policies_of
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import RetryBudget

if TYPE_CHECKING:
    # Only who asks for it needs what it is made of.
    from orderflow_client.telemetry import ClientTelemetry

KEEPALIVE_TIME_MS = 30_000
"""How often a channel with calls under way pings. A server that allows pings less often
(by default every 5 minutes) hangs up: ours set `grpc.http2.min_ping_interval_without_data_ms`
below this."""

MAX_REQUEST_BYTES = 1024 * 1024
"""The server's limit; what is larger fails here, without being sent."""

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""Enough for a page of 1000 orders with 100 items each."""

# A target that is several addresses is used as a whole. By default gRPC stays with the first that
# answers, and a hedge would go to the very server that is slow.
_ROUND_ROBIN = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

_OPTIONS: Sequence[tuple[str, int | str]] = (
    # Ours are the retries that count, so that each attempt can be seen.
    ("grpc.enable_retries", 0),
    ("grpc.service_config", _ROUND_ROBIN),
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
    telemetry: ClientTelemetry | None = None,
    breaker: BreakerOptions | None = None,
    reserve_s: float = 0.0,
) -> grpc.aio.Channel:
    """Opens a channel whose calls keep to the contract.

    What they share is made here, once for the channel: the retry budget, a breaker for each
    service, and for each method that is hedged its recent latencies.

    Args:
        target: Where to, such as `127.0.0.1:50051`, `dns:///orders.example:443` or, for several
            servers by address, `ipv4:10.0.0.1:50051,10.0.0.2:50051`. Calls take turns among the
            servers of a target.
        contract: How each method behaves, from `contracts`. Others pass through untouched.
        credentials: TLS. None: plaintext.
        listeners: Told of retries, hedges and breakers.
        telemetry: Sees every call, those that the contract does not know included. None: nobody
            does.
        breaker: When the breakers open, and for how long. None: the defaults.
        reserve_s: How much of an ambient deadline (`deadline.current()`) a call must leave
            to its caller.

    Raises:
        RuntimeError: When no event loop runs: the channel would belong to none.
    """
    asyncio.get_running_loop()
    options = [*_OPTIONS, ("grpc.primary_user_agent", f"orderflow-client/{_version()}")]
    budget = RetryBudget()
    seen = None
    if telemetry is not None:
        seen = telemetry.of_channel(contract, target=target, budget=budget)
        listeners = [seen.listener, *listeners]
    chain = interceptors(
        policies_of(
            contract,
            target=target,
            budget=budget,
            breaker=breaker,
            listeners=listeners,
            reserve_s=reserve_s,
        )
    )
    if seen is not None:
        # A call is all its attempts, and what the policies refuse is one as well.
        chain = [*seen.around_calls, *chain, *seen.around_attempts]
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, interceptors=chain)
    return grpc.aio.secure_channel(target, credentials, options, interceptors=chain)


def _version() -> str:
    return version("orderflow-client")
