"""The only place where a channel is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from random import Random
from typing import TYPE_CHECKING, Any

import grpc

from orderflow_client.awaited_channel import AwaitedChannel
from orderflow_client.balanced_channel import BalancedChannel
from orderflow_client.bearer import TokenSource, bearer, stays_here
from orderflow_client.bearer_interceptors import bearer_interceptors
from orderflow_client.contract import MethodContract
from orderflow_client.interceptors import interceptors
from orderflow_client.method_policies import policies_of
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.retry import RetryBudget
from orderflow_client.service_config import balancing
from orderflow_client.tls import ClientTls

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

_OPTIONS: Sequence[tuple[str, int | str]] = (
    # Ours are the retries that count, so that each attempt can be seen.
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a watch may be silent for long
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    # What one connection attempt gets, handshake included, before it is given up (default 20 s).
    ("grpc.min_reconnect_backoff_ms", 1_000),
)

_RANDOM = Random()


def reconnect_backoff(random: Random) -> Sequence[tuple[str, int]]:
    """Return the channel options for the delays between connection attempts.

    A restarted server is found again fast: gRPC's own bounds are 1 s, growing to 120 s. They
    differ from channel to channel, so that the clients of a server that comes back do not all
    connect at the same moment: gRPC's jitter of +-20 % alone leaves them in step.

    Args:
        random: Draws the bounds.
    """
    return [
        ("grpc.initial_reconnect_backoff_ms", random.randint(100, 300)),
        ("grpc.max_reconnect_backoff_ms", random.randint(1_000, 2_000)),
    ]


def open_channel(
    target: str,
    *,
    contract: Mapping[str, MethodContract],
    tls: ClientTls | None = None,
    token: TokenSource | None = None,
    allow_insecure_token: bool = False,
    health_service: str | None = None,
    connections: int = 1,
    listeners: Sequence[Listener] = (),
    telemetry: ClientTelemetry | None = None,
    breaker: BreakerOptions | None = None,
    reserve_s: float = 0.0,
    only_awaited: bool = False,
    random: Random = _RANDOM,
) -> grpc.aio.Channel:
    """Opens a channel whose calls keep to the contract.

    What they share is made here, once for the channel, however many connections it has: the retry
    budget, a breaker for each service, and for each method that is hedged its recent latencies.

    Args:
        target: Where to, such as `127.0.0.1:50051`, `dns:///orders.example:443` or, for several
            servers by address, `ipv4:10.0.0.1:50051,10.0.0.2:50051`. Calls take turns among the
            servers of a target that can be reached.
        contract: How each method behaves, from `contracts`. Others pass through untouched.
        tls: TLS. None: plaintext.
        token: Who calls: sent with each attempt as `authorization: Bearer ...`. A str, a file by
            its path, or a function. None: not said.
        allow_insecure_token: Send the token in plaintext to other machines too.
        health_service: Prefer the servers which say that they are SERVING when asked for the health
            of this service (grpc.health.v1, one stream for each connection). While none says so,
            any is used. None: they are not asked.
        connections: How many to each server, whose calls take turns. gRPC makes more by itself
            where a server lets one have no more streams; but on a server of several workers each
            connection is that of one worker.
        listeners: Told of retries, hedges and breakers.
        telemetry: Sees every call, those that the contract does not know included. None: nobody
            does.
        breaker: When the breakers open, and for how long. None: the defaults.
        reserve_s: How much of an ambient deadline (`deadline.current()`) a call must leave
            to its caller.
        only_awaited: Calls with one request and one response are awaited, and nothing else: they
            are coroutines, not `grpc.aio.Call`s. That makes them cheaper; see `AwaitedChannel`.
        random: Draws the bounds of the delays between connection attempts, once.

    Raises:
        RuntimeError: When no event loop runs: the channel would belong to none.
        ValueError: A file of `tls` or `token` cannot be used, or the token would leave this
            machine in plaintext.
    """
    asyncio.get_running_loop()
    if connections < 1:
        raise ValueError(f"connections is {connections}, and must be at least 1")
    authorization = None if token is None else bearer(token)
    if token is not None and tls is None and not allow_insecure_token and not stays_here(target):
        raise ValueError(
            f"the token would go to {target} in plaintext: "
            "give tls, or say allow_insecure_token=True"
        )
    connect_plainly = _connector(target, tls, random)
    connect = _awaited(connect_plainly) if only_awaited else connect_plainly
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
    if authorization is not None:
        # For each attempt: a later one may need the next token.
        chain = [*chain, *bearer_interceptors(authorization)]
    if health_service is None and connections == 1:
        return connect(chain)
    # Channels with equal options share their connections, unless told not to.
    own = [("grpc.use_local_subchannel_pool", 1)] if connections > 1 else []
    return BalancedChannel(
        lambda innermost: connect([*chain, *innermost], health_service, own),
        connections,
        # Within the other's interceptors, which are given calls.
        regardless=connect_plainly([]),
        asked=contract.keys(),
    )


def _connector(
    target: str, tls: ClientTls | None, random: Random
) -> Callable[..., grpc.aio.Channel]:
    """What makes channels to one target. The files of `tls` are read here, once."""
    options = [
        *_OPTIONS,
        *reconnect_backoff(random),
        ("grpc.primary_user_agent", f"orderflow-client/{version('orderflow-client')}"),
    ]
    if tls is None:
        open_one = partial(grpc.aio.insecure_channel, target)
    else:
        open_one = partial(grpc.aio.secure_channel, target, tls.credentials())
        options += tls.options

    def connect(
        chain: Sequence[grpc.aio.ClientInterceptor],
        health_service: str | None = None,
        more: Sequence[tuple[str, int]] = (),
    ) -> grpc.aio.Channel:
        config = ("grpc.service_config", json.dumps(balancing(health_service)))
        return open_one([*options, config, *more], interceptors=chain)

    return connect


def _awaited(connect: Callable[..., grpc.aio.Channel]) -> Callable[..., grpc.aio.Channel]:
    """The same, but for calls that are only awaited."""

    def connect_awaited(
        chain: Sequence[grpc.aio.ClientInterceptor], *options: Any
    ) -> grpc.aio.Channel:
        unary = [each for each in chain if isinstance(each, grpc.aio.UnaryUnaryClientInterceptor)]
        streams = [each for each in chain if each not in unary]
        return AwaitedChannel(connect(streams, *options), unary)

    return connect_awaited
