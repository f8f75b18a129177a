"""The contract as a gRPC service config, for clients in other languages.

What is retried by our client whatever the server says about retries is retried by one with this
config, as often, and under the same budget. What a service config cannot say, and is left out:

- the deadline of an attempt: `perAttemptRecvTimeout` is not of the standard, and does nothing in
  the gRPC core unless it is built or started with an experiment;
- RESOURCE_EXHAUSTED, retried only with a pushback: listed as retryable, it would be retried
  without one too;
- RetryInfo as a pushback: gRPC reads `grpc-retry-pushback-ms` only;
- more than 5 attempts: gRPC (gRFC A6) takes a larger number for 5;
- hedging: a method has either a retryPolicy or a hedgingPolicy, and the core ignores the second;
- any server, while none is healthy: gRPC fails the calls;
- the breaker, and the criticality.

A Python client had better give its timeouts itself: grpcio 1.85 was seen to keep those of a
service config seconds too short or too long, and it does not send them to the server.

Source: https://github.com/grpc/grpc/blob/master/doc/service_config.md and gRFC A6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orderflow_client.contract import MethodContract
from orderflow_client.resilience.retry import RetryPolicy
from orderflow_client.status import RETRYABLE_CODES

_MOST_ATTEMPTS = 5
_MOST_CONNECTIONS = 10
# As `RetryBudget` has them.
_RETRY_THROTTLING = {"maxTokens": 10, "tokenRatio": 0.1}


def service_config(
    contract: Mapping[str, MethodContract], *, health_service: str | None = None
) -> dict[str, Any]:
    """The service config that says what the contract does, to be written as JSON.

    Args:
        contract: The methods.
        health_service: Whose health decides to which servers calls go. None: they are not asked.
    """
    return {
        **balancing(health_service),
        "methodConfig": [_method_config(method) for method in contract.values()],
        "retryThrottling": _RETRY_THROTTLING,
    }


def balancing(health_service: str | None) -> dict[str, Any]:
    """How calls are spread over the servers of a target, as a part of a service config.

    By default gRPC stays with the first server that answers, and a hedge would go to the very one
    that is slow. Where a server lets a connection have no more streams, up to 10 are made (gRFC
    A105); a gRPC that does not know of that has the calls wait.
    """
    config: dict[str, Any] = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "connectionScaling": {"maxConnectionsPerSubchannel": _MOST_CONNECTIONS},
    }
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    return config


def _method_config(method: MethodContract) -> dict[str, Any]:
    config: dict[str, Any] = {"name": [{"service": method.service, "method": method.name}]}
    if method.timeout_s is not None:
        config["timeout"] = _duration(method.timeout_s)
    if method.retry is not None:
        config["retryPolicy"] = _retry_policy(method.retry)
    return config


def _retry_policy(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "maxAttempts": min(policy.max_attempts, _MOST_ATTEMPTS),
        "initialBackoff": _duration(policy.initial_backoff_s),
        "maxBackoff": _duration(policy.max_backoff_s),
        "backoffMultiplier": policy.backoff_multiplier,
        "retryableStatusCodes": sorted(code.name for code in RETRYABLE_CODES),
    }


def _duration(seconds: float) -> str:
    """As JSON writes a google.protobuf.Duration: `0.01s`."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
