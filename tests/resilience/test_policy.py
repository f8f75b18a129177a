from __future__ import annotations

import asyncio

import pytest
from resilience.virtual_time import in_virtual_time, now_s

from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import AttemptTimeout
from orderflow_client.resilience.breaker import Breaker, BreakerOpen, BreakerOptions, Outcome
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import BreakerState, PolicyEvent, RetryScheduled
from orderflow_client.resilience.hedge import Hedge, HedgePolicy
from orderflow_client.resilience.latency import LatencyTracker
from orderflow_client.resilience.policy import Operation, Policy, T, compose
from orderflow_client.resilience.retry import Retry, RetryBudget, RetryPolicy, Verdict


class Noted:
    """A policy that notes when it begins and ends."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    async def run(self, operation: Operation[T]) -> T:
        self._notes.append(f"{self._name} begins")
        try:
            return await operation()
        finally:
            self._notes.append(f"{self._name} ends")


async def test_the_first_is_the_outermost() -> None:
    notes: list[str] = []
    policy = compose(Noted("outer", notes), Noted("inner", notes))

    async def operation() -> int:
        notes.append("operation")
        return 1

    assert await policy.run(operation) == 1
    assert notes == ["outer begins", "inner begins", "operation", "inner ends", "outer ends"]


async def test_a_composition_is_a_policy_like_any_other() -> None:
    notes: list[str] = []
    inner = compose(Noted("b", notes), Noted("c", notes))
    await compose(Noted("a", notes), inner).run(lambda: asyncio.sleep(0))
    assert notes == [f"{name} begins" for name in "abc"] + [f"{name} ends" for name in "cba"]


async def test_none_is_the_operation_as_it_is() -> None:
    assert await compose().run(lambda: asyncio.sleep(0, "done")) == "done"


class TooLate(Exception):
    """What a wire raises when its deadline passes."""


class Wire:
    """Answers after as many seconds as the script says, or at its deadline with `TooLate`."""

    def __init__(self, *takes_s: float) -> None:
        self._takes_s = iter(takes_s)
        self.attempts = 0

    async def __call__(self) -> int:
        self.attempts += 1
        number = self.attempts
        takes_s = next(self._takes_s)
        remaining_s = deadline.remaining_s()
        if remaining_s is not None and takes_s > remaining_s:
            await asyncio.sleep(remaining_s)
            raise TooLate
        await asyncio.sleep(takes_s)
        return number


class Chain:
    """All policies, in the order of the design."""

    def __init__(self) -> None:
        self.budget = RetryBudget()
        self.events: list[PolicyEvent] = []
        self.breaker = Breaker(
            "test",
            BreakerOptions(minimum_attempts=4),
            classify=lambda _: Outcome.FAILURE,
            clock=now_s,
        )
        self.policy: Policy = compose(
            Hedge(
                HedgePolicy(max_attempts=2, delay_s=0.5),
                name="test",
                latencies=LatencyTracker(clock=now_s),
                classify=verdict_of,
                budget=self.budget,
                retries_within=True,
                clock=now_s,
            ),
            Retry(
                RetryPolicy(
                    max_attempts=3,
                    initial_backoff_s=0.01,
                    max_backoff_s=0.01,
                    backoff_multiplier=1,
                ),
                name="test",
                classify=verdict_of,
                budget=self.budget,
                listeners=(self.events.append,),
            ),
            self.breaker,
            AttemptTimeout(0.1, clock=now_s),
        )

    async def call(self, wire: Wire, *, timeout_s: float = 10) -> int:
        with deadline.within(Deadline.after(timeout_s, clock=now_s)):
            return await self.policy.run(wire)


def verdict_of(error: Exception) -> Verdict:
    return Verdict(retryable=isinstance(error, TooLate))


class TestAttemptsAgainstExecutions:
    @in_virtual_time
    async def test_one_execution_that_succeeds_is_one_attempt(self) -> None:
        chain, wire = Chain(), Wire(0.05)
        assert await chain.call(wire) == 1
        assert wire.attempts == 1
        assert chain.budget.tokens == 10

    @in_virtual_time
    async def test_an_attempt_that_times_out_is_retried_and_a_failure_to_the_breaker(
        self,
    ) -> None:
        chain, wire = Chain(), Wire(9, 9, 0.05, 9)
        assert await chain.call(wire) == 3
        assert wire.attempts == 3
        assert chain.budget.tokens == pytest.approx(8.1)  # each attempt counted once
        assert [event.attempt for event in chain.events if isinstance(event, RetryScheduled)] == [
            1,
            2,
        ]
        with pytest.raises(TooLate):  # the breaker has seen 3 attempts, and now the fourth
            await chain.call(wire)
        assert chain.breaker.state is BreakerState.OPEN

    @in_virtual_time
    async def test_retries_stop_when_the_breaker_opens_and_the_real_error_is_seen(self) -> None:
        chain, wire = Chain(), Wire(*[9.0] * 20)
        for _ in range(2):  # 3 attempts, and 1: the second is what opens it
            with pytest.raises(TooLate):
                await chain.call(wire)
        with pytest.raises(BreakerOpen):
            await chain.call(wire)
        assert wire.attempts == 4

    @in_virtual_time
    async def test_the_calls_deadline_ends_it_all(self) -> None:
        chain, wire = Chain(), Wire(*[9.0] * 20)
        began_s = now_s()
        with pytest.raises(TooLate):
            await chain.call(wire, timeout_s=0.15)
        assert now_s() - began_s == pytest.approx(0.15)
        assert wire.attempts == 2
