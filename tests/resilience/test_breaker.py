from __future__ import annotations

import asyncio
import time as real_time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from aiobreaker import (  # type: ignore[import-untyped]  # it ships no py.typed
    CircuitBreaker,
    CircuitBreakerListener,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from resilience.virtual_time import VirtualTime, no_jitter

from orderflow_client.resilience.breaker import (
    SHORTEST_TOLD_S,
    Breaker,
    BreakerOpen,
    BreakerOptions,
    BreakerPermit,
    Finding,
    Outcome,
    Resting,
)
from orderflow_client.resilience.events import BreakerChanged, BreakerState, PolicyEvent

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Fault(Exception):
    """The target is in trouble."""


class Answer(Exception):
    """An error that the target is right to raise."""


class Unsent(Exception):
    """An error that never reached the target."""


def outcome_of(error: Exception) -> Finding:
    if isinstance(error, Unsent):
        return Outcome.IGNORED
    if isinstance(error, BreakerOpen):
        return Resting(error.retry_after_s)
    return Outcome.SUCCESS if isinstance(error, Answer) else Outcome.FAILURE


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def make_breaker(
    time: VirtualTime,
    options: BreakerOptions | None = None,
    *,
    listeners: tuple[Callable[[PolicyEvent], None], ...] = (),
    circuit_listeners: tuple[CircuitBreakerListener, ...] = (),
    random: Callable[[], float] = no_jitter,
) -> Breaker:
    return Breaker(
        "gateway",
        options,
        classify=outcome_of,
        listeners=listeners,
        circuit_listeners=circuit_listeners,
        random=random,
        clock=time.clock,
    )


def record(breaker: Breaker, *, failures: int = 0, successes: int = 0) -> None:
    for _ in range(failures):
        breaker.acquire().failed()
    for _ in range(successes):
        breaker.acquire().succeeded()


def opened(time: VirtualTime, random: Callable[[], float] = no_jitter) -> Breaker:
    breaker = make_breaker(time, random=random)
    record(breaker, failures=20)
    assert breaker.state is OPEN
    return breaker


def raising(error: BaseException) -> Callable[[], Awaitable[str]]:
    async def operation() -> str:
        raise error

    return operation


async def succeeding() -> str:
    return "done"


class TestClosed:
    def test_fewer_attempts_than_the_minimum_never_open_it(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        record(breaker, failures=19)
        assert breaker.state is CLOSED
        record(breaker, failures=1)
        assert breaker.state is OPEN

    @pytest.mark.parametrize(("failures", "state"), [(9, CLOSED), (10, OPEN), (11, OPEN)])
    def test_it_opens_when_half_of_the_attempts_failed(
        self, time: VirtualTime, failures: int, state: BreakerState
    ) -> None:
        breaker = make_breaker(time)
        record(breaker, failures=failures, successes=20 - failures)
        assert breaker.state is state

    def test_successes_in_between_do_not_hide_failures(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        for _ in range(10):
            record(breaker, successes=1, failures=1)
        assert breaker.state is OPEN

    def test_what_is_older_than_the_window_is_forgotten(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        record(breaker, failures=19)
        time.now_s += 10
        record(breaker, failures=19)
        assert breaker.state is CLOSED
        time.now_s += 8.9
        record(breaker, failures=1)
        assert breaker.state is OPEN

    def test_a_slow_success_is_a_failure(self, time: VirtualTime) -> None:
        breaker = make_breaker(time, BreakerOptions(slow_call_s=2))
        permits = [breaker.acquire() for _ in range(20)]
        time.now_s += 1.9
        for permit in permits[:10]:
            permit.succeeded()
        assert breaker.state is CLOSED
        time.now_s += 0.1
        for permit in permits[10:]:
            permit.succeeded()
        assert breaker.state is OPEN

    async def test_answers_are_successes(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        for _ in range(100):
            with pytest.raises(Answer):
                await breaker.run(raising(Answer()))
        record(breaker, failures=99)
        assert breaker.state is CLOSED

    async def test_what_says_nothing_is_not_counted(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        for error in (asyncio.CancelledError(), Unsent()):
            for _ in range(100):
                with pytest.raises(type(error)):
                    await breaker.run(raising(error))
        record(breaker, failures=19)
        assert breaker.state is CLOSED
        record(breaker, failures=1)
        assert breaker.state is OPEN

    async def test_every_caller_sees_the_real_error(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        for _ in range(20):  # the last of them opens it
            fault = Fault()
            with pytest.raises(Fault) as caught:
                await breaker.run(raising(fault))
            assert caught.value is fault
            assert caught.value.__cause__ is None
            assert caught.value.__context__ is None
        assert breaker.state is OPEN

    async def test_a_result_is_returned(self, time: VirtualTime) -> None:
        assert await make_breaker(time).run(succeeding) == "done"

    def test_a_permit_counts_once(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        permit = breaker.acquire()
        for _ in range(40):
            permit.failed()
        assert breaker.state is CLOSED


class TestOpen:
    async def test_calls_are_refused_at_once_and_told_for_how_long(self, time: VirtualTime) -> None:
        breaker = opened(time)
        time.now_s += 2
        attempts = 0

        async def operation() -> None:
            nonlocal attempts
            attempts += 1

        with pytest.raises(BreakerOpen, match="gateway is open") as caught:
            await breaker.run(operation)
        assert attempts == 0
        assert caught.value.name == "gateway"
        assert caught.value.retry_after_s == pytest.approx(3)

    def test_it_stays_open_twice_as_long_each_time_a_probe_fails(self, time: VirtualTime) -> None:
        breaker = opened(time)
        periods = []
        for _ in range(6):
            with pytest.raises(BreakerOpen) as caught:
                breaker.acquire()
            periods.append(caught.value.retry_after_s)
            time.now_s += caught.value.retry_after_s
            breaker.acquire().failed()
        assert periods == pytest.approx([5, 10, 20, 40, 60, 60])

    def test_a_close_resets_the_period(self, time: VirtualTime) -> None:
        breaker = opened(time)
        time.now_s += 5
        breaker.acquire().failed()
        time.now_s += 10
        breaker.acquire().succeeded()
        record(breaker, failures=20)
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        assert caught.value.retry_after_s == 5

    @pytest.mark.parametrize(("random", "period_s"), [(0.0, 4), (0.999999, 6)])
    def test_its_period_is_jittered(
        self, time: VirtualTime, random: float, period_s: float
    ) -> None:
        breaker = opened(time, random=lambda: random)
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        assert caught.value.retry_after_s == pytest.approx(period_s, rel=1e-5)

    def test_results_of_before_change_nothing(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        stragglers = [breaker.acquire() for _ in range(3)]
        record(breaker, failures=20)
        for straggler in stragglers:
            straggler.succeeded()
        assert breaker.state is OPEN
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        assert caught.value.retry_after_s == 5


class TestHalfOpen:
    @pytest.fixture
    def breaker(self, time: VirtualTime) -> Breaker:
        breaker = opened(time)
        time.now_s += 5
        return breaker

    async def test_of_a_thousand_callers_one_gets_through(self, breaker: Breaker) -> None:
        attempts = 0
        answer = asyncio.Event()

        async def operation() -> str:
            nonlocal attempts
            attempts += 1
            await answer.wait()
            return "done"

        calls = [asyncio.create_task(breaker.run(operation)) for _ in range(1000)]
        await asyncio.sleep(0)
        assert breaker.state is HALF_OPEN
        answer.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert attempts == 1
        assert results.count("done") == 1
        assert sum(isinstance(result, BreakerOpen) for result in results) == 999
        assert breaker.state is CLOSED

    async def test_a_cancelled_probe_gives_the_permit_back(self, breaker: Breaker) -> None:
        probe = asyncio.create_task(breaker.run(asyncio.Event().wait))
        await asyncio.sleep(0)
        with pytest.raises(BreakerOpen, match="half_open"):
            await breaker.run(succeeding)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert breaker.state is HALF_OPEN
        assert await breaker.run(succeeding) == "done"
        assert breaker.state is CLOSED

    async def test_a_probe_that_says_nothing_gives_the_permit_back(self, breaker: Breaker) -> None:
        with pytest.raises(Unsent):
            await breaker.run(raising(Unsent()))
        assert breaker.state is HALF_OPEN
        assert await breaker.run(succeeding) == "done"

    async def test_a_probe_whose_error_cannot_be_classified_gives_the_permit_back(
        self, time: VirtualTime
    ) -> None:
        def confused(_error: Exception) -> Outcome:
            raise KeyError

        breaker = Breaker("gateway", classify=confused, random=no_jitter, clock=time.clock)
        record(breaker, failures=20)
        time.now_s += 5
        with pytest.raises(KeyError):
            await breaker.run(raising(Fault()))
        assert await breaker.run(succeeding) == "done"

    async def test_a_failed_probe_opens_it_again(self, breaker: Breaker, time: VirtualTime) -> None:
        fault = Fault()
        with pytest.raises(Fault) as caught:
            await breaker.run(raising(fault))
        assert caught.value is fault
        assert breaker.state is OPEN

    def test_a_slow_probe_opens_it_again(self, time: VirtualTime) -> None:
        breaker = make_breaker(time, BreakerOptions(slow_call_s=1))
        record(breaker, failures=20)
        time.now_s += 5
        probe = breaker.acquire()
        time.now_s += 1
        probe.succeeded()
        assert breaker.state is OPEN

    def test_results_of_before_change_nothing(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        stragglers = [breaker.acquire() for _ in range(6)]
        record(breaker, failures=20)
        time.now_s += 5
        probe = breaker.acquire()
        for settle in (BreakerPermit.succeeded, BreakerPermit.failed, BreakerPermit.ignored):
            settle(stragglers.pop())
            assert breaker.state is HALF_OPEN
            with pytest.raises(BreakerOpen):  # nor do they give the probe's permit away
                breaker.acquire()
        probe.succeeded()
        for settle in (BreakerPermit.succeeded, BreakerPermit.failed, BreakerPermit.ignored):
            settle(stragglers.pop())
        record(breaker, failures=19)
        assert breaker.state is CLOSED

    def test_a_close_forgets_the_failures(self, breaker: Breaker) -> None:
        breaker.acquire().succeeded()
        record(breaker, failures=19)
        assert breaker.state is CLOSED


class TestOfATargetThatRests:
    @staticmethod
    def open_s(breaker: Breaker) -> float:
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        return caught.value.retry_after_s

    def test_a_probe_waits_as_it_was_told_and_no_longer_the_next_time(
        self, time: VirtualTime
    ) -> None:
        breaker = opened(time)
        time.now_s += 5
        for told_s in (3.5, 0.5, 7, 7):
            breaker.acquire().settle(Resting(told_s))
            assert breaker.state is OPEN
            assert self.open_s(breaker) == pytest.approx(told_s)
            time.now_s += told_s
        breaker.acquire().failed()
        assert self.open_s(breaker) == pytest.approx(10)

    @pytest.mark.parametrize(("told_s", "open_s"), [(1e9, 60), (60.5, 60)])
    def test_a_probe_waits_no_longer_than_the_longest_period(
        self, time: VirtualTime, told_s: float, open_s: float
    ) -> None:
        breaker = opened(time)
        time.now_s += 5
        breaker.acquire().settle(Resting(told_s))
        assert self.open_s(breaker) == pytest.approx(open_s)

    @pytest.mark.parametrize("told_s", [0.0, -1.0])
    def test_a_probe_that_is_told_no_time_waits_a_little_all_the_same(
        self, time: VirtualTime, told_s: float
    ) -> None:
        breaker = opened(time)
        time.now_s += 5
        breaker.acquire().settle(Resting(told_s))
        assert self.open_s(breaker) == pytest.approx(SHORTEST_TOLD_S)
        time.now_s += SHORTEST_TOLD_S
        breaker.acquire().succeeded()
        assert breaker.state is CLOSED

    def test_its_refusals_are_failures_like_others(self, time: VirtualTime) -> None:
        breaker = make_breaker(time)
        for _ in range(20):
            breaker.acquire().settle(Resting(2))
        assert breaker.state is OPEN
        assert self.open_s(breaker) == pytest.approx(5)

    @pytest.mark.parametrize("outage_s", [7, 10, 14, 25])
    async def test_two_in_a_row_do_not_wait_for_each_other(
        self, time: VirtualTime, outage_s: float
    ) -> None:
        """Once the inner one has closed, the outer waits no longer than it was told to."""
        outer = make_breaker(time, random=lambda: 0.99)
        inner = make_breaker(time, random=lambda: 0.0)
        began_s = time.now_s
        closed_s: dict[str, float] = {}

        async def database() -> None:
            if time.now_s < began_s + outage_s:
                raise Fault

        async def call(through: Callable[[], Awaitable[None]], *breakers: Breaker) -> None:
            try:
                await through()
            except (Fault, BreakerOpen):
                return
            for name, breaker in zip(("inner", "outer"), breakers, strict=False):
                assert breaker.state is CLOSED
                closed_s.setdefault(name, time.now_s)

        while "outer" not in closed_s:
            assert time.now_s < began_s + 100
            for _ in range(2):
                await call(lambda: outer.run(lambda: inner.run(database)), inner, outer)
            await call(lambda: inner.run(database), inner)  # for somebody else
            time.now_s += 0.05
        assert closed_s["outer"] - closed_s["inner"] <= 2


class TestListeners:
    def test_events_tell_every_transition(self, time: VirtualTime) -> None:
        events: list[PolicyEvent] = []
        breaker = make_breaker(time, listeners=(events.append,))
        walk_through_all_states(breaker, time)

        def changed(old: BreakerState, new: BreakerState, open_for_s: float = 0) -> PolicyEvent:
            return BreakerChanged(name="gateway", old=old, new=new, open_for_s=open_for_s)

        assert events == [
            changed(CLOSED, OPEN, 5),
            changed(OPEN, HALF_OPEN),
            changed(HALF_OPEN, OPEN, 10),
            changed(OPEN, HALF_OPEN),
            changed(HALF_OPEN, CLOSED),
        ]

    def test_aiobreakers_own_listeners_see_every_transition(self, time: VirtualTime) -> None:
        seen: list[tuple[str, str]] = []

        class Watcher(CircuitBreakerListener):  # type: ignore[misc]  # untyped, as above
            def state_change(self, breaker: CircuitBreaker, old: object, new: object) -> None:
                assert breaker.name == "gateway"
                seen.append((type(old).__name__, type(new).__name__))

        breaker = make_breaker(time, circuit_listeners=(Watcher(),))
        walk_through_all_states(breaker, time)
        assert seen == [
            ("CircuitClosedState", "CircuitOpenState"),
            ("CircuitOpenState", "CircuitHalfOpenState"),
            ("CircuitHalfOpenState", "CircuitOpenState"),
            ("CircuitOpenState", "CircuitHalfOpenState"),
            ("CircuitHalfOpenState", "CircuitClosedState"),
        ]


def walk_through_all_states(breaker: Breaker, time: VirtualTime) -> None:
    record(breaker, failures=20)
    time.now_s += 5
    breaker.acquire().failed()
    time.now_s += 10
    breaker.acquire().succeeded()


class TestTimeZones:
    @pytest.fixture(autouse=True)
    def restored(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        yield
        monkeypatch.undo()
        real_time.tzset()

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
    def test_change_nothing(
        self, time: VirtualTime, monkeypatch: pytest.MonkeyPatch, zone: str
    ) -> None:
        breaker = opened(time)
        monkeypatch.setenv("TZ", zone)
        real_time.tzset()
        time.now_s += 4.9
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        assert caught.value.retry_after_s == pytest.approx(0.1)
        time.now_s += 0.1
        breaker.acquire().failed()
        with pytest.raises(BreakerOpen) as caught:
            breaker.acquire()
        assert caught.value.retry_after_s == pytest.approx(10)


class TestOptions:
    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"window_s": 0}, "window_s"),
            ({"minimum_attempts": 0}, "minimum_attempts"),
            ({"failure_ratio": 0}, "failure_ratio"),
            ({"failure_ratio": 1.1}, "failure_ratio"),
            ({"slow_call_s": 0}, "slow_call_s"),
            ({"open_s": 0}, "open_s"),
            ({"open_s": 61}, "open_s"),
            ({"open_max_s": float("inf")}, "open_max_s"),
        ],
    )
    def test_impossible_ones_cannot_be_made(self, change: dict[str, float], complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            BreakerOptions(**change)  # type: ignore[arg-type]  # an int among floats


class BreakerMachine(RuleBasedStateMachine):
    """The breaker against a model that keeps every outcome and its time.

    All times are whole seconds, so the buckets of the window are exact.
    """

    MINIMUM = 4

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime()
        self.breaker = make_breaker(
            self.time, BreakerOptions(minimum_attempts=self.MINIMUM, slow_call_s=3)
        )
        self.state = CLOSED
        self.outcomes: list[tuple[float, bool]] = []
        self.open_until_s = 0.0
        self.next_open_s = 5.0
        self.permits: list[tuple[BreakerPermit, float, int]] = []
        self.era = 0
        self.probing = False

    @rule(seconds=st.integers(1, 30))
    def pass_time(self, seconds: int) -> None:
        self.time.now_s += seconds

    @rule()
    def acquire(self) -> None:
        now = self.time.now_s
        if self.state is OPEN and now >= self.open_until_s:
            self.enter(HALF_OPEN)
        allowed = self.state is CLOSED or (self.state is HALF_OPEN and not self.probing)
        if not allowed:
            with pytest.raises(BreakerOpen) as caught:
                self.breaker.acquire()
            assert caught.value.retry_after_s > 0
            return
        self.probing = self.state is HALF_OPEN
        self.permits.append((self.breaker.acquire(), now, self.era))

    @precondition(lambda self: self.permits)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([Outcome.FAILURE, *Outcome, Resting(2.0), Resting(90.0)]),
    )
    def settle(self, data: st.DataObject, outcome: Finding) -> None:
        index = data.draw(st.integers(0, len(self.permits) - 1))
        permit, started_s, era = self.permits.pop(index)
        permit.settle(outcome)
        if era != self.era:
            return
        self.probing = False
        if outcome is Outcome.IGNORED:
            return
        now = self.time.now_s
        failed = outcome is not Outcome.SUCCESS or now - started_s >= 3
        if self.state is HALF_OPEN and isinstance(outcome, Resting):
            next_open_s = self.next_open_s
            self.enter(OPEN)
            self.open_until_s = now + min(outcome.retry_after_s, 60)
            self.next_open_s = next_open_s
            return
        if self.state is HALF_OPEN:
            self.enter(OPEN if failed else CLOSED)
            return
        self.outcomes.append((now, failed))
        recent = [failure for at, failure in self.outcomes if now - at < 10]
        if len(recent) >= self.MINIMUM and sum(recent) * 2 >= len(recent):
            self.enter(OPEN)

    def enter(self, state: BreakerState) -> None:
        if state is OPEN:
            self.open_until_s = self.time.now_s + self.next_open_s
            self.next_open_s = min(self.next_open_s * 2, 60)
        elif state is CLOSED:
            self.next_open_s = 5.0
        self.state = state
        self.era += 1
        self.outcomes.clear()

    @invariant()
    def states_agree(self) -> None:
        assert self.breaker.state is self.state


TestAgainstModel = BreakerMachine.TestCase
TestAgainstModel.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


async def test_a_probe_that_is_allowed_is_made_before_the_open_period_has_passed() -> None:
    time = VirtualTime()
    breaker = opened(time)
    with pytest.raises(BreakerOpen):
        breaker.acquire()
    breaker.allow_probe()
    probe = breaker.acquire()
    breaker.allow_probe()
    with pytest.raises(BreakerOpen):
        breaker.acquire()
    probe.succeeded()
    assert breaker.state is CLOSED
    breaker.allow_probe()
    assert breaker.state is CLOSED


async def test_an_allowed_probe_that_fails_opens_the_breaker_for_longer() -> None:
    time = VirtualTime()
    breaker = opened(time)
    for opened_s in (10.0, 20.0):
        breaker.allow_probe()
        breaker.acquire().failed()
        assert breaker.state is OPEN
        with pytest.raises(BreakerOpen) as refused:
            breaker.acquire()
        assert refused.value.retry_after_s == opened_s
