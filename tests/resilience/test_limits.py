from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resilience.virtual_time import VirtualTime, in_virtual_time, no_jitter, now_s

from orderflow_client.resilience.limiter import Limiter, Overloaded
from orderflow_client.resilience.limits import (
    AdaptiveLimit,
    AdaptiveLimitOptions,
    Completion,
    FixedLimit,
)


class Measured:
    """An adaptive limit, fed a measurement at a time."""

    def __init__(self, **options: float) -> None:
        self.time = VirtualTime()
        self.limit = AdaptiveLimit(
            AdaptiveLimitOptions(**options),  # type: ignore[arg-type]  # ints among floats
            clock=self.time.clock,
        )

    def measure(self, latency_s: float, *, times: int = 1, in_flight: int | None = None) -> int:
        """The limit after so many measurements, each with all of it in use unless told."""
        for _ in range(times):
            for _ in range(10):
                self.time.now_s += 0.025 + 1e-6
                self.limit.observe(
                    latency_s,
                    in_flight=self.limit.current if in_flight is None else in_flight,
                    completion=Completion.SERVED,
                )
        return self.limit.current

    def drop(self) -> int:
        self.limit.observe(9, in_flight=self.limit.current, completion=Completion.DROPPED)
        return self.limit.current


def test_it_grows_while_latency_stays() -> None:
    measured = Measured()
    limits = [measured.measure(0.01) for _ in range(100)]
    assert limits == sorted(limits)
    assert limits[0] == 20
    assert limits[-1] > 100


def test_it_falls_when_latency_grows_and_recovers_when_it_is_back() -> None:
    measured = Measured()
    usual = measured.measure(0.01, times=60)
    assert measured.measure(0.04, times=20) < usual / 2
    assert measured.measure(0.01, times=60) > usual * 0.9


def test_latency_within_the_tolerance_is_no_reason_to_fall() -> None:
    measured = Measured()
    usual = measured.measure(0.01, times=20)
    assert measured.measure(0.0149, times=20) > usual


def test_the_formula() -> None:
    measured = Measured(initial_limit=100)
    measured.measure(0.01)  # the baseline
    measured.measure(0.02)  # gradient 1.5 / 2
    assert measured.limit._limit == pytest.approx(0.8 * 100 + 0.2 * (0.75 * 100 + 10))
    before = measured.limit._limit
    measured.measure(10)  # the gradient is never lower than a half
    assert measured.limit._limit == pytest.approx(0.8 * before + 0.2 * (before / 2 + before**0.5))


def test_it_stays_within_its_range() -> None:
    measured = Measured(min_limit=10, max_limit=30, probe_every_s=1e6)
    assert measured.measure(0.01, times=200) == 30
    assert measured.measure(9, times=200) == 10
    for _ in range(200):
        measured.time.now_s += 1
        assert measured.drop() >= 10


def test_it_stays_while_less_than_half_is_in_use() -> None:
    measured = Measured()
    assert measured.measure(0.01, times=50, in_flight=9) == 20
    # and the baseline follows: what was learned is the new normal
    assert measured.measure(0.05, times=50, in_flight=9) == 20
    assert measured.measure(0.05, times=50) > 20


def test_a_lasting_overload_does_not_become_the_norm() -> None:
    measured = Measured(probe_every_s=1e6)
    measured.measure(0.01, times=50)
    assert measured.measure(0.1, times=10_000) < 10


def test_after_a_minute_of_full_use_a_quarter_of_it_shows_the_new_baseline() -> None:
    """Everything became three times as slow for good, which no queue of ours is to blame for."""
    measured = Measured()
    usual = measured.measure(0.01, times=40)
    assert measured.measure(0.03, times=100) < usual
    measured.measure(0.03, times=150)
    assert measured.measure(0.03, times=60) > usual


def test_a_probe_does_not_measure_what_was_admitted_before_it() -> None:
    measured = Measured(probe_every_s=1, initial_limit=40)
    measured.measure(0.01, times=5)
    low = measured.limit.current
    assert low == pytest.approx(10, abs=1)
    assert measured.measure(0.01, times=3, in_flight=40) == low  # the old queue runs still
    assert measured.measure(9, times=3, in_flight=low) == low  # and these have been in it
    assert measured.measure(0.01, times=2, in_flight=low) > 40 - 2


def test_a_drop_lowers_it_at_most_once_in_a_window() -> None:
    measured = Measured(initial_limit=100)
    assert [measured.drop() for _ in range(5)] == [90] * 5
    measured.time.now_s += 0.25
    assert measured.drop() == 81


def test_what_is_ignored_changes_nothing() -> None:
    measured = Measured()
    measured.measure(0.01)
    for _ in range(1000):
        measured.time.now_s += 1
        measured.limit.observe(99, in_flight=20, completion=Completion.IGNORED)
    assert measured.limit.current == 20


def test_lag_of_the_event_loop_lowers_it_though_latency_is_good() -> None:
    measured = Measured(lag_s=0.05)
    usual = measured.measure(0.01, times=20)
    for _ in range(20):
        measured.limit.observe_lag(0.2)
        measured.measure(0.01, in_flight=1)
    assert measured.limit.current < usual / 2
    for _ in range(20):
        measured.limit.observe_lag(0.049)
        measured.measure(0.01)
    assert measured.limit.current > usual / 2


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100), st.integers(1, 100), st.sampled_from(Completion), st.floats(0, 2)
        ),
        max_size=300,
    )
)
@settings(deadline=None)  # the machine may be busy
def test_whatever_it_is_told_it_is_a_limit(
    calls: list[tuple[float, int, Completion, float]],
) -> None:
    time = VirtualTime()
    options = AdaptiveLimitOptions(min_samples=2, probe_every_s=5)
    limit = AdaptiveLimit(options, clock=time.clock)
    for latency_s, in_flight, completion, passed_s in calls:
        time.now_s += passed_s
        limit.observe_lag(passed_s / 10)
        limit.observe(latency_s, in_flight=in_flight, completion=completion)
        assert 1 <= limit.current <= options.max_limit


class Simulation:
    """Some workers with a queue, behind a limiter; calls arrive at random."""

    SERVICE_S = 0.05

    def __init__(self, workers: int = 10) -> None:
        self.limit = AdaptiveLimit(clock=now_s)
        self._limiter = Limiter(self.limit, name="test", random=no_jitter, clock=now_s)
        self._workers = asyncio.Semaphore(workers)
        self._capacity = workers
        self._random = Random(1)
        self.service_s = self.SERVICE_S
        self.latencies_s: list[float] = []

    async def run(self, *, load: float, for_s: float) -> float:
        """Goodput at so many times the capacity, as a part of the capacity."""
        self.latencies_s.clear()
        rate = self._capacity / self.service_s
        ends_s = now_s() + for_s
        async with asyncio.TaskGroup() as calls:
            while now_s() < ends_s:
                calls.create_task(self._call())
                await asyncio.sleep(self._random.expovariate(load * rate))
            goodput = len(self.latencies_s) / for_s
        return goodput / rate

    def p99_s(self) -> float:
        return sorted(self.latencies_s)[int(len(self.latencies_s) * 0.99)]

    async def _call(self) -> None:
        arrived_s = now_s()
        try:
            await self._limiter.run(self._serve)
        except Overloaded:
            return
        self.latencies_s.append(now_s() - arrived_s)

    async def _serve(self) -> None:
        async with self._workers:
            await asyncio.sleep(self.service_s * self._random.uniform(0.5, 1.5))


class TestSimulated:
    @in_virtual_time
    async def test_at_four_times_the_capacity_goodput_is_kept_and_latency_bounded(self) -> None:
        simulation = Simulation()
        assert await simulation.run(load=4, for_s=20) >= 0.9
        assert simulation.p99_s() < 0.5

    @in_virtual_time
    async def test_a_baseline_learned_under_overload_is_mended_by_probes(self) -> None:
        """Of 2 workers: the first limit, 20, makes everything wait ten times as long."""
        simulation = Simulation(workers=2)
        await simulation.run(load=4, for_s=200)
        assert simulation.limit.current < 8
        assert await simulation.run(load=4, for_s=100) >= 0.9

    @in_virtual_time
    async def test_below_the_capacity_nothing_is_refused(self) -> None:
        simulation = Simulation()
        assert await simulation.run(load=0.5, for_s=20) == pytest.approx(0.5, abs=0.02)
        assert simulation.p99_s() < 0.1

    @in_virtual_time
    async def test_it_falls_when_the_service_slows_down_and_recovers_with_it(self) -> None:
        simulation = Simulation()
        await simulation.run(load=2, for_s=15)
        usual = simulation.limit.current
        simulation.service_s *= 4
        await simulation.run(load=2, for_s=15)
        slow = simulation.limit.current
        assert slow < usual / 1.5
        simulation.service_s /= 4
        await simulation.run(load=2, for_s=15)
        assert simulation.limit.current > usual / 1.5


@pytest.mark.parametrize(
    "change",
    [
        {"min_limit": 1},
        {"initial_limit": 3},
        {"max_limit": 19},
        {"min_samples": 0},
        {"window_s": 0},
        {"lag_s": float("nan")},
        {"probe_every_s": float("inf")},
    ],
)
def test_impossible_options_cannot_be_made(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"limit|min_samples|_s must"):
        AdaptiveLimitOptions(**change)  # type: ignore[arg-type]  # an int among floats


def test_a_fixed_one_must_be_positive() -> None:
    assert FixedLimit(1).current == 1
    with pytest.raises(ValueError, match="positive"):
        FixedLimit(0)
