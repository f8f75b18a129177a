from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resilience.virtual_time import in_virtual_time, no_jitter, now_s

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import (
    CallShed,
    Criticality,
    LimitChanged,
    Listener,
    PolicyEvent,
    ShedReason,
)
from orderflow_client.resilience.limiter import Limiter, LimiterPermit, Overloaded, QueueOptions
from orderflow_client.resilience.limits import Completion, FixedLimit, Limit

SHEDDABLE, DEFAULT, CRITICAL = Criticality


class ScriptedLimit:
    """A limit that is set by hand, and notes what it is told."""

    def __init__(self, current: int) -> None:
        self.current = current
        self.told: list[tuple[float, int, Completion]] = []
        self.lags_s: list[float] = []

    def observe(self, latency_s: float, *, in_flight: int, completion: Completion) -> None:
        self.told.append((round(latency_s, 9), in_flight, completion))

    def observe_lag(self, lag_s: float) -> None:
        self.lags_s.append(lag_s)


def make_limiter(
    limit: Limit | int,
    *,
    max_waiting: int = 10,
    max_wait_s: float = 1.0,
    calm_s: float = 0.0,
    listeners: tuple[Listener, ...] = (),
    random: Callable[[], float] = no_jitter,
) -> Limiter:
    return Limiter(
        FixedLimit(limit) if isinstance(limit, int) else limit,
        name="orders",
        queue=QueueOptions(max_waiting=max_waiting, max_wait_s=max_wait_s, calm_s=calm_s),
        listeners=listeners,
        random=random,
        clock=now_s,
    )


class Callers:
    """Tasks that want a place; `order` are those that got one, or were refused, as they did."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._tasks: list[asyncio.Task[None]] = []
        self.order: list[str] = []
        self.permits: list[LimiterPermit] = []

    async def arrive(self, name: str, criticality: Criticality = DEFAULT) -> asyncio.Task[None]:
        task = asyncio.create_task(self._call(name, criticality))
        self._tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def release_all(self) -> None:
        while self.permits:
            self.permits.pop(0).release()
            await asyncio.sleep(0)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, name: str, criticality: Criticality) -> None:
        try:
            self.permits.append(await self._limiter.acquire(criticality))
        except Overloaded:
            self.order.append(f"{name} shed")
        else:
            self.order.append(name)


class TestPlaces:
    @in_virtual_time
    async def test_no_more_than_the_limit_run_at_once(self) -> None:
        limiter = make_limiter(3, max_waiting=100, max_wait_s=100)
        busiest = 0

        async def operation() -> None:
            nonlocal busiest
            busiest = max(busiest, limiter.in_flight)
            await asyncio.sleep(0.1)

        began_s = now_s()
        await asyncio.gather(*(limiter.run(operation) for _ in range(30)))
        assert busiest == 3
        assert now_s() - began_s == pytest.approx(1)
        assert limiter.in_flight == limiter.waiting == 0

    @in_virtual_time
    async def test_a_newcomer_does_not_overtake_those_who_wait(self) -> None:
        limiter = make_limiter(1)
        callers = Callers(limiter)
        await callers.arrive("a")
        await callers.arrive("b")
        callers.permits.pop().release()  # b has its place now, though it does not know yet
        await callers.arrive("c")
        assert callers.order == ["a", "b"]
        await callers.release_all()
        assert callers.order == ["a", "b", "c"]

    @in_virtual_time
    async def test_a_permit_gives_back_one_place_however_often_it_is_released(self) -> None:
        limiter = make_limiter(2)
        first, second = await limiter.acquire(), await limiter.acquire()
        first.release()
        first.release()
        assert limiter.in_flight == 1
        second.release()

    @in_virtual_time
    async def test_a_lower_limit_waits_for_places_to_become_free(self) -> None:
        limit = ScriptedLimit(3)
        limiter = make_limiter(limit)
        callers = Callers(limiter)
        for name in "abcd":
            await callers.arrive(name)
        limit.current = 1
        callers.permits.pop().release()
        callers.permits.pop().release()
        assert (limiter.in_flight, limiter.waiting) == (1, 1)
        await callers.release_all()

    @in_virtual_time
    async def test_a_higher_limit_admits_several_who_wait(self) -> None:
        limit = ScriptedLimit(1)
        limiter = make_limiter(limit)
        callers = Callers(limiter)
        for name in "abcd":
            await callers.arrive(name)
        limit.current = 3
        callers.permits.pop().release()
        assert (limiter.in_flight, limiter.waiting) == (3, 0)
        await asyncio.sleep(0)
        await callers.release_all()


class TestShedding:
    @in_virtual_time
    async def test_the_most_critical_is_admitted_first_and_among_equals_the_earliest(
        self,
    ) -> None:
        callers = Callers(make_limiter(1))
        await callers.arrive("running")
        await callers.arrive("sheddable", SHEDDABLE)
        await callers.arrive("default 1", DEFAULT)
        await callers.arrive("critical 1", CRITICAL)
        await callers.arrive("default 2", DEFAULT)
        await callers.arrive("critical 2", CRITICAL)
        await callers.release_all()
        assert callers.order == [
            "running", "critical 1", "critical 2", "default 1", "default 2", "sheddable",
        ]  # fmt: skip  # one line is easier to compare

    @in_virtual_time
    async def test_a_full_queue_refuses_what_is_not_more_critical_at_once(self) -> None:
        callers = Callers(make_limiter(1, max_waiting=1))
        began_s = now_s()
        await callers.arrive("running")
        await callers.arrive("waiting", DEFAULT)
        await callers.arrive("equal", DEFAULT)
        await callers.arrive("less", SHEDDABLE)
        assert callers.order == ["running", "equal shed", "less shed"]
        assert now_s() == began_s
        await callers.release_all()

    @in_virtual_time
    async def test_what_is_more_critical_displaces_the_latest_of_the_least_critical(
        self,
    ) -> None:
        callers = Callers(make_limiter(1, max_waiting=4))
        await callers.arrive("running")
        for name in ("sheddable 1", "sheddable 2"):
            await callers.arrive(name, SHEDDABLE)
        await callers.arrive("default 1", DEFAULT)
        await callers.arrive("critical 1", CRITICAL)
        for n in (2, 3, 4, 5):
            await callers.arrive(f"critical {n}", CRITICAL)
            await asyncio.sleep(0)
        assert callers.order == [
            "running", "sheddable 2 shed", "sheddable 1 shed", "default 1 shed",
            "critical 5 shed",
        ]  # fmt: skip  # likewise
        await callers.release_all()

    @in_virtual_time
    async def test_nobody_waits_longer_than_allowed(self) -> None:
        limiter = make_limiter(1, max_wait_s=0.2)
        with await limiter.acquire():
            began_s = now_s()
            with pytest.raises(Overloaded):
                await limiter.acquire(CRITICAL)
            assert now_s() - began_s == pytest.approx(0.2)
            assert limiter.waiting == 0

    @in_virtual_time
    async def test_while_calls_are_refused_nobody_begins_to_wait(self) -> None:
        """A queue that stands is no burst: who is refused learns it at once."""
        limiter = make_limiter(1, max_wait_s=0.2, calm_s=1.0)

        async def waited_s() -> float:
            began_s = now_s()
            with pytest.raises(Overloaded):
                await limiter.acquire(CRITICAL)
            return now_s() - began_s

        with await limiter.acquire():
            assert await waited_s() == pytest.approx(0.2)
            assert await waited_s() == 0
            await asyncio.sleep(0.9)
            assert await waited_s() == 0
            await asyncio.sleep(1.1)  # nobody was refused meanwhile
            assert await waited_s() == pytest.approx(0.2)

    @in_virtual_time
    async def test_while_calls_are_refused_the_last_places_are_for_critical_ones(self) -> None:
        limiter = make_limiter(10, max_waiting=0, calm_s=1.0)
        permits = [await limiter.acquire() for _ in range(10)]
        with pytest.raises(Overloaded):
            await limiter.acquire(CRITICAL)
        permits.pop().release()
        for criticality in (SHEDDABLE, DEFAULT):
            with pytest.raises(Overloaded):
                await limiter.acquire(criticality)
        permits.append(await limiter.acquire(CRITICAL))
        permits.pop().release()
        permits.pop().release()
        permits.append(await limiter.acquire(SHEDDABLE))
        await asyncio.sleep(1.1)  # it is calm again
        permits.append(await limiter.acquire(SHEDDABLE))
        for permit in permits:
            permit.release()

    @in_virtual_time
    async def test_without_a_queue_nobody_waits(self) -> None:
        limiter = make_limiter(1, max_waiting=0)
        with await limiter.acquire(), pytest.raises(Overloaded):
            await limiter.acquire(CRITICAL)

    @in_virtual_time
    async def test_listeners_hear_of_each_refusal_and_why(self) -> None:
        events: list[PolicyEvent] = []
        limiter = make_limiter(1, max_waiting=1, listeners=(events.append,))
        callers = Callers(limiter)
        await callers.arrive("running")
        await callers.arrive("waiting", SHEDDABLE)
        await callers.arrive("full", SHEDDABLE)
        await callers.arrive("displacing", DEFAULT)
        await asyncio.sleep(2)
        assert [
            (event.criticality, event.reason) for event in events if isinstance(event, CallShed)
        ] == [
            (SHEDDABLE, ShedReason.QUEUE_FULL),
            (SHEDDABLE, ShedReason.DISPLACED),
            (DEFAULT, ShedReason.WAITED_TOO_LONG),
        ]
        await callers.release_all()


class TestPushback:
    @in_virtual_time
    async def test_is_the_time_in_which_those_who_wait_are_served(self) -> None:
        limiter = make_limiter(1, max_waiting=4)
        for _ in range(20):  # in 2 s: 10 a second
            await limiter.run(lambda: asyncio.sleep(0.0999))
        assert await refused(limiter, waiting=4) == pytest.approx(0.5)

    @in_virtual_time
    async def test_has_a_lower_bound(self) -> None:
        limiter = make_limiter(1, max_waiting=0)
        for _ in range(1000):
            await limiter.run(lambda: asyncio.sleep(0))
        assert await refused(limiter, waiting=0) == 0.05

    @in_virtual_time
    async def test_has_an_upper_bound_even_when_nothing_is_completed(self) -> None:
        assert await refused(make_limiter(1, max_waiting=0), waiting=0) == 5

    @pytest.mark.parametrize(("random", "told_s"), [(0.0, 4), (1.0, 6)])
    @in_virtual_time
    async def test_is_jittered(self, random: float, told_s: float) -> None:
        limiter = make_limiter(1, max_waiting=0, random=lambda: random)
        assert await refused(limiter, waiting=0) == pytest.approx(told_s)

    @in_virtual_time
    async def test_forgets_completions_of_long_ago(self) -> None:
        limiter = make_limiter(1, max_waiting=0)
        await limiter.run(lambda: asyncio.sleep(0))
        assert await refused(limiter, waiting=0) == 2
        await asyncio.sleep(2)
        assert await refused(limiter, waiting=0) == 5


async def refused(limiter: Limiter, *, waiting: int) -> float:
    """What a caller is told that meets a busy limiter and a full queue."""
    with await limiter.acquire():
        queue = [asyncio.create_task(limiter.acquire()) for _ in range(waiting)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await limiter.acquire()
        assert caught.value.name == "orders"
        for waiter in queue:
            waiter.cancel()
        await asyncio.gather(*queue, return_exceptions=True)
    return caught.value.retry_after_s


class TestCompletions:
    @in_virtual_time
    async def test_latency_counts_from_admission_not_from_arrival(self) -> None:
        limit = ScriptedLimit(1)
        limiter = make_limiter(limit)
        await asyncio.gather(*(limiter.run(lambda: asyncio.sleep(0.3)) for _ in range(3)))
        assert limit.told == [(0.3, 1, Completion.SERVED)] * 3

    @in_virtual_time
    async def test_an_error_says_nothing(self) -> None:
        limit = ScriptedLimit(1)
        for error in (KeyError(), asyncio.CancelledError()):
            with pytest.raises(type(error)), await make_limiter(limit).acquire():
                raise error
        assert [completion for *_, completion in limit.told] == [Completion.IGNORED] * 2

    @in_virtual_time
    async def test_an_error_at_the_deadline_is_a_drop(self) -> None:
        limit = ScriptedLimit(1)

        async def until_the_deadline() -> None:
            await asyncio.sleep(0.1)
            raise asyncio.CancelledError

        with (
            deadline.within(Deadline.after(0.1, clock=now_s)),
            pytest.raises(asyncio.CancelledError),
        ):
            await make_limiter(limit).run(until_the_deadline)
        assert limit.told == [(0.1, 1, Completion.DROPPED)]

    @in_virtual_time
    async def test_what_the_block_says_counts(self) -> None:
        limit = ScriptedLimit(1)
        with await make_limiter(limit).acquire() as permit:
            permit.release(Completion.DROPPED)
        assert limit.told == [(0, 1, Completion.DROPPED)]

    @in_virtual_time
    async def test_lag_is_passed_on(self) -> None:
        limit = ScriptedLimit(1)
        make_limiter(limit).observe_lag(0.1)
        assert limit.lags_s == [0.1]

    @in_virtual_time
    async def test_listeners_hear_of_a_changed_limit(self) -> None:
        class Growing(ScriptedLimit):
            def observe(self, latency_s: float, *, in_flight: int, completion: Completion) -> None:
                self.current += 1

        events: list[PolicyEvent] = []
        (await make_limiter(Growing(1), listeners=(events.append,)).acquire()).release()
        assert events == [LimitChanged(name="orders", old=1, new=2)]


class TestCancellation:
    @in_virtual_time
    async def test_of_a_waiter_frees_its_place_in_the_queue(self) -> None:
        limiter = make_limiter(1)
        callers = Callers(limiter)
        await callers.arrive("running")
        waiter = await callers.arrive("waiting")
        waiter.cancel()
        await asyncio.sleep(0)
        assert limiter.waiting == 0
        await callers.release_all()
        assert limiter.in_flight == 0

    @in_virtual_time
    async def test_at_the_moment_of_admission_hands_the_place_on(self) -> None:
        limiter = make_limiter(1)
        callers = Callers(limiter)
        await callers.arrive("running")
        first = await callers.arrive("first")
        await callers.arrive("second")
        callers.permits.pop().release()
        first.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert callers.order == ["running", "second"]
        await callers.release_all()
        assert limiter.in_flight == 0

    @in_virtual_time
    async def test_just_before_an_admission_lets_the_next_have_it(self) -> None:
        limiter = make_limiter(1)
        callers = Callers(limiter)
        await callers.arrive("running")
        first = await callers.arrive("first")
        await callers.arrive("second")
        first.cancel()
        callers.permits.pop().release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert callers.order == ["running", "second"]
        await callers.release_all()
        assert limiter.in_flight == limiter.waiting == 0

    @in_virtual_time
    async def test_just_before_a_displacement_makes_one_place_not_two(self) -> None:
        limiter = make_limiter(1, max_waiting=1)
        callers = Callers(limiter)
        await callers.arrive("running")
        first = await callers.arrive("first", SHEDDABLE)
        second = asyncio.create_task(limiter.acquire(CRITICAL))
        third = asyncio.create_task(limiter.acquire(CRITICAL))
        first.cancel()  # it runs after the two
        await asyncio.sleep(0)
        assert limiter.waiting == 1
        with pytest.raises(Overloaded):
            await third
        await callers.release_all()
        (await second).release()

    @given(
        seed=st.integers(0, 2**32),
        limit=st.integers(1, 5),
        max_waiting=st.integers(0, 5),
    )
    @settings(max_examples=60, deadline=None)
    @in_virtual_time
    async def test_at_random_leaks_no_place(self, seed: int, limit: int, max_waiting: int) -> None:
        random = Random(seed)
        changing = ScriptedLimit(limit)
        limiter = make_limiter(changing, max_waiting=max_waiting, max_wait_s=0.02)
        running = 0

        async def call() -> None:
            nonlocal running
            with await limiter.acquire(random.choice(list(Criticality))):
                running += 1
                assert running <= limiter.in_flight
                assert limiter.in_flight <= 5
                try:
                    await asyncio.sleep(random.choice((0, 0, 0.01, 0.02)))
                finally:
                    running -= 1

        calls = []
        for _ in range(60):
            calls.append(asyncio.create_task(call()))
            for _ in range(random.randrange(3)):
                await asyncio.sleep(random.choice((0, 0, 0.005)))
            random.choice(calls).cancel()
            assert limiter.waiting <= max_waiting
            changing.current = random.randint(1, limit)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert result is None or isinstance(result, Overloaded | asyncio.CancelledError)
        assert limiter.in_flight == limiter.waiting == 0
        changing.current = limit
        for _ in range(limit):  # all places are there
            await asyncio.wait_for(limiter.acquire(), 0.001)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"max_waiting": -1}, "max_waiting"),
        ({"max_wait_s": 0}, "max_wait_s"),
        ({"calm_s": -1}, "calm_s"),
        ({"min_retry_after_s": 0}, "retry"),
        ({"min_retry_after_s": 6}, "retry"),
        ({"max_retry_after_s": float("inf")}, "retry"),
    ],
)
def test_impossible_options_cannot_be_made(change: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        QueueOptions(**change)  # type: ignore[arg-type]  # an int among floats
