"""What the contract says about each method, made into policies at work on one channel."""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orderflow_client.contract import MethodContract
from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import AttemptTimeout, at_least_extended
from orderflow_client.resilience.breaker import Breaker, BreakerOptions
from orderflow_client.resilience.deadline import Deadline, MonotonicClock
from orderflow_client.resilience.events import Listener
from orderflow_client.resilience.hedge import Hedge
from orderflow_client.resilience.latency import LatencyTracker
from orderflow_client.resilience.policy import Policy, compose
from orderflow_client.resilience.retry import Retry, RetryBudget
from orderflow_client.status import outcome_of, verdict_on


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPolicies:
    """How the calls of one method are made. Keeps nothing of a single call.

    Attributes:
        attempts: Runs the attempts of a call with one request and one response.
        breaker: The service's, for calls that are not a function to run: streams.
        timeout_s: For a call whose caller gives none. None: it has no deadline of its own.
        reserve_s: How much of an ambient deadline a call must leave to its caller.
        clock: What deadlines are measured with.
    """

    attempts: Policy
    breaker: Breaker
    timeout_s: float | None
    reserve_s: float
    clock: MonotonicClock

    def call_deadline(self, timeout_s: float | None) -> Deadline | None:
        """For one call, all its attempts and delays included.

        It is the caller's timeout, else the method's; never past the ambient deadline less the
        reserve.
        """
        if timeout_s is None and self.timeout_s is not None:
            timeout_s = at_least_extended(self.timeout_s)
        own = None if timeout_s is None else Deadline.after(timeout_s, clock=self.clock)
        ambient = deadline.current()
        return (
            own if ambient is None else deadline.earliest(own, ambient.earlier_by(self.reserve_s))
        )


def breaker_name(target: str, service: str) -> str:
    """The name of the breaker that guards a service on a target."""
    return f"{target}/{service}"


def policies_of(
    contract: Mapping[str, MethodContract],
    *,
    target: str,
    budget: RetryBudget,
    breaker: BreakerOptions | None = None,
    listeners: Sequence[Listener] = (),
    reserve_s: float = 0.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    random: Callable[[], float] = _random.random,
    clock: MonotonicClock = time.monotonic,
) -> Mapping[str, MethodPolicies]:
    """The policies of each method, by its name on the wire; to be made once for each channel.

    Each service has a breaker of its own: its methods share a fate, such as a database, which
    another service on the same target need not share. A finer one would see too few calls to
    judge by.

    Args:
        contract: The methods, by their names on the wire.
        target: What the channel leads to, for the names of the breakers.
        budget: The retry budget of the channel.
        breaker: When the breakers open, and for how long. None: the defaults.
        listeners: Told of retries, hedges and breakers.
        reserve_s: How much of an ambient deadline a call must leave to its caller.
        sleep: Waits the given seconds.
        random: Uniform over [0, 1), for the jitter.
        clock: What deadlines, latencies and open breakers are measured with.
    """
    breakers = {
        service: Breaker(
            breaker_name(target, service),
            breaker,
            classify=outcome_of,
            listeners=listeners,
            random=random,
            clock=clock,
        )
        for service in {method.service for method in contract.values()}
    }

    def policies(method: MethodContract) -> Iterator[Policy]:
        # The outermost first. `compose` shows what each of them sees.
        if method.hedging is not None:
            yield Hedge(
                method.hedging,
                name=method.full_name,
                latencies=LatencyTracker(clock=clock),
                classify=verdict_on,
                budget=budget,
                retries_within=method.retry is not None,
                listeners=listeners,
                clock=clock,
            )
        if method.retry is not None:
            yield Retry(
                method.retry,
                name=method.full_name,
                classify=verdict_on,
                budget=budget,
                listeners=listeners,
                sleep=sleep,
                random=random,
            )
        yield breakers[method.service]
        if method.retry is not None and method.retry.attempt_timeout_s is not None:
            yield AttemptTimeout(method.retry.attempt_timeout_s, clock=clock)

    return {
        name: MethodPolicies(
            attempts=compose(*policies(method)),
            breaker=breakers[method.service],
            timeout_s=method.timeout_s,
            reserve_s=reserve_s,
            clock=clock,
        )
        for name, method in contract.items()
    }
