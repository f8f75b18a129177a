from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar
from random import Random

import pytest
from resilience.faults import Fault, Refusal, verdict_of
from resilience.virtual_time import in_virtual_time, now_s

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import HedgeStarted, Listener
from orderflow_client.resilience.hedge import Hedge, HedgePolicy
from orderflow_client.resilience.latency import LatencyTracker
from orderflow_client.resilience.retry import RetryBudget


class Script:
    """Attempt n takes and ends as the n-th step says: a number of seconds, and an error if any."""

    def __init__(self, *steps: tuple[float, BaseException | None]) -> None:
        self._steps = iter(steps)
        self._began_s = now_s()
        self.started_s: list[float] = []
        self.ended: list[tuple[int, str]] = []

    async def __call__(self) -> int:
        takes_s, error = next(self._steps)
        self.started_s.append(round(now_s() - self._began_s, 9))
        number = len(self.started_s)
        try:
            await _step(takes_s, error)
        except asyncio.CancelledError:
            await asyncio.sleep(0.001)  # cleaning up
            self.ended.append((number, "cancelled"))
            raise
        except BaseException:
            self.ended.append((number, "failed"))
            raise
        self.ended.append((number, "done"))
        return number


async def _step(takes_s: float, error: BaseException | None) -> None:
    await asyncio.sleep(takes_s)
    if error is not None:
        raise error


def make_hedge(
    *,
    max_attempts: int = 3,
    delay_s: float | None = 0.1,
    latencies: LatencyTracker | None = None,
    budget: RetryBudget | None = None,
    retries_within: bool = False,
    listeners: tuple[Listener, ...] = (),
) -> Hedge:
    return Hedge(
        HedgePolicy(max_attempts=max_attempts, delay_s=delay_s),
        name="/test",
        latencies=latencies or LatencyTracker(clock=now_s),
        classify=verdict_of,
        budget=budget,
        retries_within=retries_within,
        listeners=listeners,
        clock=now_s,
    )


@in_virtual_time
async def test_a_quick_answer_is_not_hedged() -> None:
    script = Script((0.09, None))
    assert await make_hedge().run(script) == 1
    assert script.started_s == [0]


@in_virtual_time
async def test_the_first_success_wins_and_the_others_are_cancelled_and_awaited() -> None:
    script = Script((9, None), (0.15, None), (9, None))
    assert await make_hedge().run(script) == 2
    assert script.started_s == [0, 0.1, 0.2]
    assert sorted(script.ended) == [(1, "cancelled"), (2, "done"), (3, "cancelled")]


@in_virtual_time
async def test_the_first_attempt_may_win_after_all() -> None:
    script = Script((0.12, None), (9, None))
    assert await make_hedge().run(script) == 1
    assert script.started_s == [0, 0.1]
    assert script.ended == [(1, "done"), (2, "cancelled")]


@in_virtual_time
async def test_there_are_never_more_than_the_allowed_attempts() -> None:
    script = Script((9, None), (9, None))
    assert await make_hedge(max_attempts=2).run(script) == 1
    assert script.started_s == [0, 0.1]


@in_virtual_time
async def test_of_two_that_end_together_the_success_wins() -> None:
    script = Script((0.2, Fault(retryable=False)), (0.1, None))
    assert await make_hedge(max_attempts=2).run(script) == 2


@in_virtual_time
async def test_of_successes_that_come_together_the_earlier_attempt_wins() -> None:
    script = Script(*[(0.5, None), (0.4, None), (0.3, None), (0.2, None), (0.1, None)])
    assert await make_hedge(max_attempts=5).run(script) == 1


@in_virtual_time
async def test_listeners_hear_of_each_hedge_and_why() -> None:
    events: list[object] = []
    fault = Fault()
    script = Script((0.15, fault), (9, None), (0.1, None))
    assert await make_hedge(listeners=(events.append,)).run(script) == 3
    assert events == [
        HedgeStarted(name="/test", attempt=2, cause=None),
        HedgeStarted(name="/test", attempt=3, cause=fault),
    ]


class TestFailures:
    @in_virtual_time
    async def test_one_worth_repeating_starts_the_next_at_once(self) -> None:
        script = Script((0.02, Fault()), (0.02, Fault()), (0.02, None))
        assert await make_hedge().run(script) == 3
        assert script.started_s == [0, 0.02, 0.04]

    @in_virtual_time
    async def test_the_next_delay_counts_from_the_start_of_the_latest(self) -> None:
        script = Script((0.05, Fault()), (9, None), (0.01, None))
        assert await make_hedge().run(script) == 3
        assert script.started_s == [0, 0.05, 0.15]

    @in_virtual_time
    async def test_a_fatal_one_ends_the_call_and_the_other_attempts(self) -> None:
        fatal = Fault(retryable=False)
        script = Script((9, None), (0.01, fatal))
        with pytest.raises(Fault) as caught:
            await make_hedge().run(script)
        assert caught.value is fatal
        assert caught.value.__context__ is None
        assert script.ended == [(2, "failed"), (1, "cancelled")]

    @in_virtual_time
    async def test_the_last_is_raised_when_all_fail(self) -> None:
        faults = [Fault() for _ in range(3)]
        script = Script(*((0.01, fault) for fault in faults))
        with pytest.raises(Fault) as caught:
            await make_hedge().run(script)
        assert caught.value is faults[-1]
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert len(script.started_s) == 3

    @in_virtual_time
    async def test_those_under_way_are_waited_for_when_none_may_start(self) -> None:
        script = Script((0.3, None), (0.01, Fault()))
        assert await make_hedge(max_attempts=2).run(script) == 1

    @in_virtual_time
    async def test_a_refusal_stops_hedging_but_not_those_under_way(self) -> None:
        script = Script((1, None), (0, Refusal()))
        assert await make_hedge().run(script) == 1
        assert script.started_s == [0, 0.1]

    @in_virtual_time
    async def test_a_refusal_does_not_hide_that_an_attempt_was_made(self) -> None:
        fault = Fault()
        with pytest.raises(Fault) as caught:
            await make_hedge().run(Script((0, fault), (0, Refusal())))
        assert caught.value is fault

    @in_virtual_time
    async def test_a_refusal_of_the_first_is_raised(self) -> None:
        with pytest.raises(Refusal):
            await make_hedge().run(Script((0, Refusal())))


class TestPushback:
    @in_virtual_time
    async def test_delays_the_next_attempt_exactly(self) -> None:
        script = Script((0.05, Fault(pushback_s=0.7)), (9, None), (0.01, None))
        assert await make_hedge().run(script) == 3
        assert script.started_s == [0, 0.75, 0.85]

    @in_virtual_time
    async def test_stops_hedging_when_negative(self) -> None:
        script = Script((1, None), (0.01, Fault(pushback_s=-1)))
        assert await make_hedge().run(script) == 1
        assert script.started_s == [0, 0.1]

    @in_virtual_time
    async def test_that_is_negative_ends_the_call_when_nothing_is_under_way(self) -> None:
        fault = Fault(pushback_s=-1)
        with pytest.raises(Fault) as caught:
            await make_hedge().run(Script((0.01, fault)))
        assert caught.value is fault

    @in_virtual_time
    async def test_beyond_the_deadline_is_not_waited_for(self) -> None:
        began_s = now_s()
        with deadline.within(Deadline.after(1, clock=now_s)), pytest.raises(Fault):
            await make_hedge().run(Script((0.01, Fault(pushback_s=5))))
        assert now_s() - began_s == pytest.approx(0.01)


class TestDeadline:
    @in_virtual_time
    async def test_nothing_starts_after_it(self) -> None:
        script = Script((0.2, Fault()))
        with deadline.within(Deadline.after(0.1, clock=now_s)), pytest.raises(Fault):
            await make_hedge(delay_s=0.1).run(script)
        assert script.started_s == [0]


class TestCancellation:
    @in_virtual_time
    async def test_of_the_call_cancels_all_attempts_and_waits_for_them(self) -> None:
        script = Script((9, None), (9, None), (9, None))
        call = asyncio.create_task(make_hedge().run(script))
        await asyncio.sleep(0.25)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert sorted(script.ended) == [(number, "cancelled") for number in (1, 2, 3)]

    @in_virtual_time
    async def test_while_the_losers_clean_up_leaves_none_behind(self) -> None:
        script = Script((0.2, None), (9, None))
        call = asyncio.create_task(make_hedge(max_attempts=2).run(script))
        await asyncio.sleep(0.2005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert script.ended == [(1, "done"), (2, "cancelled")]

    @in_virtual_time
    async def test_while_the_first_attempt_is_beaten_and_cleans_up_ends_the_call(self) -> None:
        """Its clean-up is cut short, as that of any task that is cancelled twice."""
        script = Script((9, None), (0.1, None))
        call = asyncio.create_task(make_hedge(max_attempts=2).run(script))
        await asyncio.sleep(0.2005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert script.ended == [(2, "done")]

    @in_virtual_time
    async def test_in_the_turn_in_which_another_attempt_wins_is_not_lost(self) -> None:
        won = asyncio.Event()

        async def winning() -> int:
            await won.wait()
            call.cancel()
            return 2

        operations = iter((Script((9, None)), winning))
        call = asyncio.create_task(make_hedge(max_attempts=2).run(lambda: next(operations)()))
        await asyncio.sleep(0.15)
        won.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    @in_virtual_time
    async def test_of_a_beaten_attempt_is_taken_back(self) -> None:
        """What else the caller's task does, such as a timeout around the call, works as ever."""
        task = asyncio.current_task()
        assert task is not None

        async def call_and_more() -> None:
            assert await make_hedge(max_attempts=2).run(Script((9, None), (0.1, None))) == 2
            assert task.cancelling() == 0
            await asyncio.sleep(9)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await call_and_more()

    @in_virtual_time
    async def test_a_timeout_around_the_call_ends_every_attempt(self) -> None:
        script = Script((9, None), (9, None), (9, None))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await make_hedge().run(script)
        assert sorted(script.ended) == [(1, "cancelled"), (2, "cancelled")]

    @in_virtual_time
    async def test_a_beaten_attempt_that_answers_all_the_same_changes_nothing(self) -> None:
        async def stubborn() -> str:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(9)
            return "stubborn"

        async def quick() -> str:
            return "quick"

        task = asyncio.current_task()
        assert task is not None
        operations = iter((stubborn, quick))
        assert await make_hedge(max_attempts=2).run(lambda: next(operations)()) == "quick"
        assert task.cancelling() == 0

    @in_virtual_time
    async def test_of_an_attempt_from_within_ends_the_call(self) -> None:
        script = Script((0.01, asyncio.CancelledError()))
        with pytest.raises(asyncio.CancelledError):
            await make_hedge().run(script)
        assert len(script.started_s) == 1

    @in_virtual_time
    async def test_errors_of_losers_are_nobodys_concern(self) -> None:
        async def stubborn() -> int:
            try:
                await asyncio.sleep(9)
            except asyncio.CancelledError:
                raise Fault from None
            return 1

        operations = iter((stubborn, Script((0, None))))
        assert await make_hedge(max_attempts=2).run(lambda: next(operations)()) == 1


class TestBudget:
    @in_virtual_time
    async def test_failures_take_a_token_and_a_success_gives_a_tenth(self) -> None:
        budget = RetryBudget()
        await make_hedge(budget=budget).run(Script((0, Fault()), (0, Fault()), (0, None)))
        assert budget.tokens == 8.1

    @in_virtual_time
    async def test_an_attempt_for_slowness_takes_one_too(self) -> None:
        budget = RetryBudget()
        await make_hedge(budget=budget).run(Script((9, None), (0, None)))
        assert budget.tokens == 9.1

    @in_virtual_time
    async def test_nothing_is_hedged_without_one(self) -> None:
        budget = RetryBudget()
        for _ in range(5):
            budget.on_failure()
        slow = Script((1, None))
        await make_hedge(budget=budget).run(slow)
        failing = Script((0, Fault()))
        with pytest.raises(Fault):
            await make_hedge(budget=budget).run(failing)
        assert len(slow.started_s) == len(failing.started_s) == 1

    @in_virtual_time
    async def test_a_target_that_only_became_slow_is_loaded_by_a_tenth_more(self) -> None:
        hedge = make_hedge(budget=RetryBudget(), max_attempts=2)
        attempts = 0

        async def slow() -> None:
            nonlocal attempts
            attempts += 1
            await asyncio.sleep(1)

        for _ in range(1000):
            await hedge.run(slow)
        assert attempts <= 1000 * 1.1 + 5

    @in_virtual_time
    async def test_answers_that_are_no_trouble_cost_nothing(self) -> None:
        budget = RetryBudget()
        with pytest.raises(Fault):
            await make_hedge(budget=budget).run(Script((0, Fault(retryable=False))))
        assert budget.tokens == 10


class TestWithRetriesWithin:
    @in_virtual_time
    async def test_a_failure_is_final_and_its_tokens_are_taken(self) -> None:
        budget = RetryBudget()
        script = Script((0.05, Fault()))
        with pytest.raises(Fault):
            await make_hedge(budget=budget, retries_within=True).run(script)
        assert len(script.started_s) == 1
        assert budget.tokens == 10

    @in_virtual_time
    async def test_those_under_way_and_those_still_due_go_on(self) -> None:
        script = Script((0.35, Fault()), (0.05, Fault()), (0.5, None))
        assert await make_hedge(retries_within=True).run(script) == 3
        assert script.started_s == [0, 0.1, 0.2]

    @in_virtual_time
    async def test_a_pushback_delays_what_is_still_due(self) -> None:
        script = Script((9, None), (0.05, Fault(pushback_s=0.7)), (0.1, None))
        assert await make_hedge(retries_within=True).run(script) == 3
        assert script.started_s == [0, 0.1, 0.85]


class TestDelay:
    @in_virtual_time
    async def test_is_the_95th_percentile_when_the_policy_has_none(self) -> None:
        latencies = LatencyTracker(clock=now_s)
        for latency_s in range(1, 21):
            latencies.observe(latency_s / 100)
        script = Script((9, None), (0, None))
        await make_hedge(delay_s=None, latencies=latencies).run(script)
        assert script.started_s == [0, 0.19]

    @in_virtual_time
    async def test_is_none_until_enough_latencies_are_known(self) -> None:
        script = Script(*((60, None) for _ in range(20)))
        hedge = make_hedge(delay_s=None, latencies=LatencyTracker(clock=now_s))
        for _ in range(19):
            await hedge.run(script)
        assert len(script.started_s) == 19

    @in_virtual_time
    async def test_does_not_sink_because_slow_attempts_are_beaten(self) -> None:
        """One in twenty is ten times as slow. About as many are hedged, now and later."""
        hedge = make_hedge(delay_s=None, latencies=LatencyTracker(clock=now_s), max_attempts=2)
        random = Random(1)
        attempts = 0

        async def target() -> None:
            nonlocal attempts
            attempts += 1
            usual_s = random.uniform(0.01, 0.02)
            await asyncio.sleep(usual_s * 10 if random.random() < 0.05 else usual_s)

        for _ in range(3000):
            await hedge.run(target)
        assert 1.02 < attempts / 3000 < 1.1


@in_virtual_time
async def test_a_hedge_sees_the_callers_context_of_before_the_first_and_keeps_its_own() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("caller")
    seen = []

    async def operation() -> None:
        seen.append(variable.get())
        variable.set(f"attempt {len(seen)}")
        if len(seen) < 3:
            await asyncio.sleep(9)

    await make_hedge().run(operation)
    assert seen == ["caller"] * 3
    assert variable.get() == "attempt 1"  # which ran in the caller's own


@in_virtual_time
async def test_a_quick_answer_takes_no_task() -> None:
    tasks = []

    async def operation() -> None:
        tasks.append(asyncio.current_task())

    await make_hedge().run(operation)
    assert tasks == [asyncio.current_task()]


@pytest.mark.parametrize(
    ("max_attempts", "delay_s", "complaint"),
    [(1, 1, "max_attempts"), (2, -1, "delay"), (2, float("inf"), "delay")],
)
def test_an_impossible_policy_cannot_be_made(
    max_attempts: int, delay_s: float, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        HedgePolicy(max_attempts=max_attempts, delay_s=delay_s)


@in_virtual_time
async def test_a_caller_that_is_cancelled_starts_no_other_attempt_while_the_first_cleans_up() -> (
    None
):
    started, cleaned_up = [], []

    async def attempt() -> int:
        started.append(now_s())
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            cleaned_up.append(now_s())
        return 1

    call = asyncio.create_task(make_hedge(delay_s=0.05).run(attempt))
    await asyncio.sleep(0.03)
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call

    assert call.cancelled()
    assert (len(started), len(cleaned_up)) == (1, 1)
