from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resilience.faults import Fault, Refusal, verdict_of
from resilience.virtual_time import VirtualTime, no_jitter

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import RetryScheduled
from orderflow_client.resilience.retry import Retry, RetryBudget, RetryPolicy, Verdict

POLICY = RetryPolicy(
    max_attempts=5, initial_backoff_s=0.01, max_backoff_s=1.0, backoff_multiplier=2.0
)


class Script:
    """A function that fails as told and then succeeds; it counts and notes its attempts."""

    def __init__(self, *faults: BaseException, time: VirtualTime, takes_s: float = 0) -> None:
        self._faults = list(faults)
        self._time = time
        self._takes_s = takes_s
        self.attempts = 0
        self.remaining_s: list[float | None] = []

    async def __call__(self) -> str:
        self.attempts += 1
        self.remaining_s.append(deadline.remaining_s())
        self._time.now_s += self._takes_s
        if self._faults:
            raise self._faults.pop(0)
        return "done"


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def make_retry(
    time: VirtualTime,
    *,
    policy: RetryPolicy = POLICY,
    budget: RetryBudget | None = None,
    random: Callable[[], float] = no_jitter,
    listeners: Sequence[Callable[[RetryScheduled], None]] = (),
) -> Retry:
    return Retry(
        policy,
        name="/test",
        classify=verdict_of,
        budget=budget,
        listeners=listeners,
        sleep=time.sleep,
        random=random,
    )


async def test_a_success_is_returned_at_once(time: VirtualTime) -> None:
    script = Script(time=time)
    assert await make_retry(time).run(script) == "done"
    assert script.attempts == 1
    assert time.slept == []


async def test_failures_are_repeated_after_growing_delays(time: VirtualTime) -> None:
    script = Script(*(Fault() for _ in range(4)), time=time)
    assert await make_retry(time).run(script) == "done"
    assert script.attempts == 5
    assert time.slept == pytest.approx([0.01, 0.02, 0.04, 0.08])


async def test_after_the_last_attempt_its_own_error_is_raised(time: VirtualTime) -> None:
    faults = [Fault() for _ in range(5)]
    script = Script(*faults, time=time)
    with pytest.raises(Fault) as caught:
        await make_retry(time).run(script)
    assert caught.value is faults[-1]
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert script.attempts == 5
    assert len(time.slept) == 4


async def test_what_cannot_be_mended_is_not_repeated(time: VirtualTime) -> None:
    script = Script(Fault(), Fault(retryable=False), time=time)
    with pytest.raises(Fault):
        await make_retry(time).run(script)
    assert script.attempts == 2


async def test_listeners_hear_of_each_retry_before_its_delay(time: VirtualTime) -> None:
    events: list[tuple[RetryScheduled, int]] = []
    fault = Fault()
    retry = make_retry(time, listeners=[lambda event: events.append((event, len(time.slept)))])
    await retry.run(Script(fault, time=time))
    event = RetryScheduled(name="/test", attempt=1, delay_s=0.01, cause=fault)
    assert events == [(event, 0)]


async def test_a_refusal_is_not_repeated(time: VirtualTime) -> None:
    script = Script(Refusal(), time=time)
    with pytest.raises(Refusal):
        await make_retry(time).run(script)
    assert script.attempts == 1


async def test_a_refusal_does_not_hide_that_attempts_were_made(time: VirtualTime) -> None:
    fault = Fault()
    budget = RetryBudget()
    with pytest.raises(Fault) as caught:
        await make_retry(time, budget=budget).run(Script(fault, Refusal(), time=time))
    assert caught.value is fault
    assert caught.value.__cause__ is None
    assert budget.tokens == 9


class TestPushback:
    async def test_of_700_ms_is_waited_for_to_the_millisecond(self, time: VirtualTime) -> None:
        began_s = time.now_s
        await make_retry(time, random=lambda: 0.9).run(Script(Fault(pushback_s=0.7), time=time))
        assert time.slept == [0.7]
        assert time.now_s - began_s == pytest.approx(0.7, abs=1e-9)

    async def test_replaces_the_delay_exactly(self, time: VirtualTime) -> None:
        script = Script(Fault(pushback_s=0.123), Fault(pushback_s=0), time=time)
        # With a random number that would move any backoff.
        await make_retry(time, random=lambda: 0.9).run(script)
        assert time.slept == [0.123, 0]

    async def test_lets_the_backoff_start_over(self, time: VirtualTime) -> None:
        script = Script(Fault(), Fault(), Fault(pushback_s=3), Fault(), time=time)
        await make_retry(time).run(script)
        assert time.slept == pytest.approx([0.01, 0.02, 3, 0.01])

    async def test_stops_when_negative(self, time: VirtualTime) -> None:
        script = Script(Fault(pushback_s=-1), time=time)
        with pytest.raises(Fault):
            await make_retry(time).run(script)
        assert script.attempts == 1

    async def test_cannot_add_attempts(self, time: VirtualTime) -> None:
        script = Script(*(Fault(pushback_s=0) for _ in range(9)), time=time)
        with pytest.raises(Fault):
            await make_retry(time).run(script)
        assert script.attempts == 5


class TestDeadline:
    async def test_spans_attempts_and_delays(self, time: VirtualTime) -> None:
        script = Script(*(Fault() for _ in range(4)), time=time, takes_s=0.5)
        with deadline.within(Deadline.after(10, clock=time.clock)):
            await make_retry(time).run(script)
        assert script.remaining_s == pytest.approx([10, 9.49, 8.97, 8.43, 7.85])

    @pytest.mark.parametrize(("timeout_s", "attempts"), [(0.0099, 1), (0.01, 1), (0.0101, 2)])
    async def test_a_retry_that_would_begin_too_late_is_not_waited_for(
        self, time: VirtualTime, timeout_s: float, attempts: int
    ) -> None:
        fault = Fault()
        script = Script(fault, Fault(retryable=False), time=time)
        with deadline.within(Deadline.after(timeout_s, clock=time.clock)), pytest.raises(Fault):
            await make_retry(time).run(script)
        assert script.attempts == attempts
        assert len(time.slept) == attempts - 1

    async def test_a_pushback_beyond_it_is_not_waited_for(self, time: VirtualTime) -> None:
        fault = Fault(pushback_s=5)
        with (
            deadline.within(Deadline.after(2, clock=time.clock)),
            pytest.raises(Fault) as caught,
        ):
            await make_retry(time).run(Script(fault, time=time))
        assert caught.value is fault
        assert time.slept == []


class TestCancellation:
    async def test_of_an_attempt_ends_the_call(self, time: VirtualTime) -> None:
        script = Script(asyncio.CancelledError(), time=time)
        retry = Retry(POLICY, name="/test", classify=lambda _: Verdict(True), sleep=time.sleep)
        with pytest.raises(asyncio.CancelledError):
            await retry.run(script)
        assert script.attempts == 1

    async def test_of_a_delay_ends_the_call(self, time: VirtualTime) -> None:
        asleep = asyncio.Event()

        async def sleep(_delay_s: float) -> None:
            asleep.set()
            await asyncio.Event().wait()

        retry = Retry(POLICY, name="/test", classify=verdict_of, sleep=sleep)
        script = Script(Fault(), time=time)
        task = asyncio.create_task(retry.run(script))
        await asleep.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert script.attempts == 1


class TestBudget:
    async def test_an_outage_exhausts_it_after_four_retries(self, time: VirtualTime) -> None:
        budget = RetryBudget()
        retry = make_retry(time, budget=budget)
        attempts = []
        for _ in range(10):
            script = Script(*(Fault() for _ in range(5)), time=time)
            with pytest.raises(Fault):
                await retry.run(script)
            attempts.append(script.attempts)
        # 10 tokens, and at 5 it is over; from then on each call is one attempt.
        assert attempts == [5, 1, 1, 1, 1, 1, 1, 1, 1, 1]
        assert budget.tokens == 0

    async def test_an_outage_of_a_minute_loads_the_target_by_a_tenth_more_at_most(
        self, time: VirtualTime
    ) -> None:
        """At 100 calls a second: a minute of health, one of outage, one of health."""
        retry = make_retry(time, budget=RetryBudget())
        attempts = calls = 0

        async def target() -> None:
            nonlocal attempts
            attempts += 1
            if 60 <= time.now_s - began_s < 120:
                raise Fault

        began_s = time.now_s
        loads = []
        for _ in range(3):
            attempts = calls = 0
            for _ in range(6000):
                calls += 1
                due_s = time.now_s + 0.01
                with contextlib.suppress(Fault):
                    await retry.run(target)
                time.now_s = due_s  # the calls come at this rate, whatever each of them takes
            loads.append(attempts / calls)
        before, during, after = loads
        assert before == after == 1
        assert 1 < during <= 1.1

    async def test_an_outage_of_one_call_in_five_loads_the_target_by_a_tenth_more(
        self, time: VirtualTime
    ) -> None:
        """When some calls succeed, these pay for retries all the time."""
        retry = make_retry(time, budget=RetryBudget())
        random = Random(1)
        attempts = 0

        async def target() -> None:
            nonlocal attempts
            attempts += 1
            if random.random() < 0.8:
                raise Fault

        for _ in range(6000):
            with contextlib.suppress(Fault):
                await retry.run(target)
        assert attempts / 6000 <= 1.1

    async def test_ten_successes_pay_for_one_retry(self, time: VirtualTime) -> None:
        budget = RetryBudget()
        for _ in range(5):
            budget.on_failure()
        assert not budget.allows_retry
        retry = make_retry(time, budget=budget)
        for _ in range(10):
            await retry.run(Script(time=time))
        assert budget.tokens == 6
        with pytest.raises(Fault):  # its own failure brings it back to half
            await retry.run(Script(Fault(), time=time))
        await retry.run(Script(time=time))
        for _ in range(10):
            await retry.run(Script(time=time))
        await retry.run(Script(Fault(), time=time))

    async def test_answers_that_are_no_trouble_cost_nothing(self, time: VirtualTime) -> None:
        budget = RetryBudget()
        with pytest.raises(Fault):
            await make_retry(time, budget=budget).run(Script(Fault(retryable=False), time=time))
        assert budget.tokens == 10

    @given(st.lists(st.booleans(), max_size=300))
    def test_it_stays_between_empty_and_full(self, outcomes: list[bool]) -> None:
        budget = RetryBudget()
        for success in outcomes:
            budget.on_success() if success else budget.on_failure()
            assert 0 <= budget.tokens <= 10
            assert budget.allows_retry == (budget.tokens > 5)

    @given(st.lists(st.integers(min_value=0, max_value=6), max_size=100))
    def test_retries_are_at_most_five_and_a_tenth_of_the_successes(
        self, failures_per_call: list[int]
    ) -> None:
        time = VirtualTime()
        retry = make_retry(time, budget=RetryBudget())
        successes = 0

        async def calls() -> None:
            nonlocal successes
            for failures in failures_per_call:
                try:
                    await retry.run(Script(*(Fault() for _ in range(failures)), time=time))
                except Fault:
                    continue
                successes += 1

        asyncio.run(calls())
        assert len(time.slept) <= 5 + successes / 10


class TestPolicy:
    @given(
        initial=st.floats(0.001, 1),
        growth=st.floats(1, 10),
        limit=st.floats(1, 100),
        randoms=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=50),
    )
    def test_delays_are_those_of_a6(
        self, initial: float, growth: float, limit: float, randoms: list[float]
    ) -> None:
        policy = RetryPolicy(
            max_attempts=2,
            initial_backoff_s=initial,
            max_backoff_s=limit,
            backoff_multiplier=growth,
        )
        backoffs = policy.backoffs_s(iter(randoms).__next__)
        delays = list(itertools.islice(backoffs, len(randoms)))
        for retry, (delay, random) in enumerate(zip(delays, randoms, strict=True)):
            base = min(initial * growth**retry, limit)
            assert delay == pytest.approx(base * (0.8 + 0.4 * random))

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"max_attempts": 1}, "max_attempts"),
            ({"initial_backoff_s": 0.0}, "backoffs"),
            ({"initial_backoff_s": 2.0}, "backoffs"),
            ({"max_backoff_s": float("inf")}, "backoffs"),
            ({"max_backoff_s": float("nan")}, "backoffs"),
            ({"backoff_multiplier": 0.5}, "backoff_multiplier"),
            ({"attempt_timeout_s": 0.0}, "attempt_timeout"),
        ],
    )
    def test_an_impossible_one_cannot_be_made(
        self, change: dict[str, float], complaint: str
    ) -> None:
        good: dict[str, float] = {
            "max_attempts": 2,
            "initial_backoff_s": 0.1,
            "max_backoff_s": 1.0,
            "backoff_multiplier": 2.0,
        }
        with pytest.raises(ValueError, match=complaint):
            RetryPolicy(**(good | change))  # type: ignore[arg-type]  # an int among floats
