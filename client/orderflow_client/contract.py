"""What the protobuf contract says about each method's behaviour, as values.

Client and server read the same descriptors, so a timeout or a retry policy is written once:
in the .proto, as the method option `orderflow.resilience.v1.policy`. Whether a method may be
retried or raced at all is its `idempotency_level`, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.duration_pb2 import Duration

from orderflow.resilience.v1 import policy_pb2
from orderflow_client.resilience.events import Criticality
from orderflow_client.resilience.hedge import HedgePolicy
from orderflow_client.resilience.retry import RetryPolicy

_NO_SIDE_EFFECTS = descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
_RETRYABLE_LEVELS = frozenset({descriptor_pb2.MethodOptions.IDEMPOTENT, _NO_SIDE_EFFECTS})


class ContractError(ValueError):
    """A method's options contradict each other or are out of range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContract:
    """How one method behaves.

    Attributes:
        full_name: As on the wire: `/package.Service/Method`.
        timeout_s: The client's default for a whole call and the server's cap. None: neither.
        retry: How failed attempts are retried. None: they are not.
        hedging: How a slow attempt is raced by another. None: it is not.
        criticality: How much a call matters when not all can be served.
        retryable: Repeating a call does no harm (IDEMPOTENT or NO_SIDE_EFFECTS).
        request_streaming: The client sends a stream.
        response_streaming: The server answers with a stream.
    """

    full_name: str
    timeout_s: float | None
    retry: RetryPolicy | None
    hedging: HedgePolicy | None
    criticality: Criticality
    retryable: bool
    request_streaming: bool
    response_streaming: bool

    @property
    def service(self) -> str:
        """The full name of the service: `package.Service`."""
        return self.full_name.split("/")[1]

    @property
    def name(self) -> str:
        """The method's own name."""
        return self.full_name.split("/")[2]

    @property
    def streaming(self) -> bool:
        return self.request_streaming or self.response_streaming


def contracts(*services: ServiceDescriptor) -> Mapping[str, MethodContract]:
    """The contract of every method of the services, by its name on the wire.

    Raises:
        ContractError: When a method's policy is one that cannot be kept.
    """
    methods = (_read(method) for service in services for method in service.methods)
    return {contract.full_name: contract for contract in methods}


def _read(method: MethodDescriptor) -> MethodContract:
    full_name = f"/{method.containing_service.full_name}/{method.name}"
    options = method.GetOptions()
    policy = options.Extensions[policy_pb2.policy]
    try:
        contract = MethodContract(
            full_name=full_name,
            timeout_s=_timeout_s(policy),
            retry=_retry_policy(policy.retry) if policy.HasField("retry") else None,
            hedging=_hedge_policy(policy.hedging) if policy.HasField("hedging") else None,
            # Not said is DEFAULT. A number that no release knows is refused: ValueError.
            criticality=Criticality(policy.criticality or Criticality.DEFAULT),
            retryable=options.idempotency_level in _RETRYABLE_LEVELS,
            request_streaming=method.client_streaming,
            response_streaming=method.server_streaming,
        )
        _check_retry(contract)
        _check_hedging(contract, harmless=options.idempotency_level == _NO_SIDE_EFFECTS)
    except ValueError as error:
        raise ContractError(f"{full_name}: {error}") from error
    return contract


def _check_retry(contract: MethodContract) -> None:
    if contract.retry is None:
        return
    if not contract.retryable:
        raise ValueError("only an IDEMPOTENT or NO_SIDE_EFFECTS method may have a retry policy")
    if contract.streaming:
        raise ValueError("a stream is not retried: part of it has been seen")
    if not _lasts_shorter(contract.retry.attempt_timeout_s, contract.timeout_s):
        raise ValueError("an attempt_timeout must be shorter than the timeout of the whole call")


def _check_hedging(contract: MethodContract, *, harmless: bool) -> None:
    if contract.hedging is None:
        return
    if not harmless:
        # Idempotent is not enough: the attempts run at the same time, and one of them is
        # cancelled at whatever point it has reached.
        raise ValueError("only a NO_SIDE_EFFECTS method may have a hedging policy")
    if contract.streaming:
        raise ValueError("a stream is not hedged: part of it has been seen")
    if not _lasts_shorter(contract.hedging.delay_s, contract.timeout_s):
        raise ValueError("a hedging delay must be shorter than the timeout of the whole call")


def _lasts_shorter(part_s: float | None, whole_s: float | None) -> bool:
    return part_s is None or whole_s is None or part_s < whole_s


def _timeout_s(policy: policy_pb2.Policy) -> float | None:
    if not policy.HasField("timeout"):
        return None
    timeout_s = _seconds(policy.timeout)
    if timeout_s <= 0:
        raise ValueError(f"timeout must be positive, not {timeout_s} s")
    return timeout_s


def _retry_policy(retry: policy_pb2.RetryPolicy) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        initial_backoff_s=_seconds(retry.initial_backoff),
        max_backoff_s=_seconds(retry.max_backoff),
        backoff_multiplier=retry.backoff_multiplier,
        attempt_timeout_s=(
            _seconds(retry.attempt_timeout) if retry.HasField("attempt_timeout") else None
        ),
    )


def _hedge_policy(hedging: policy_pb2.HedgingPolicy) -> HedgePolicy:
    return HedgePolicy(
        max_attempts=hedging.max_attempts,
        delay_s=_seconds(hedging.delay) if hedging.HasField("delay") else None,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
