"""Rate limits: what one caller may do, what it is told, and that others do not notice."""

from __future__ import annotations

import pytest

from orderflow_server.security.rate_limit import RateLimit, RateLimited, RateLimiter


class World:
    def __init__(self, *, per_s: float = 10.0, burst: int = 5, **changes: int) -> None:
        self.now_s = 1000.0
        limit = RateLimit(per_s=per_s, burst=burst)
        self.limiter = RateLimiter(limit, clock=lambda: self.now_s, **changes)

    def calls(self, count: int, caller: str = "alice") -> int:
        """How many of them pass."""
        return sum(self.passes(caller) for _ in range(count))

    def passes(self, caller: str = "alice") -> bool:
        try:
            self.limiter.take(caller)
        except RateLimited:
            return False
        return True


def test_after_a_rest_a_burst_passes_and_no_more() -> None:
    world = World(burst=5)
    assert world.calls(20) == 5
    world.now_s += 3600
    assert world.calls(20) == 5


def test_in_the_long_run_it_is_so_many_a_second() -> None:
    world = World(per_s=10, burst=5)
    passed = 0
    for _ in range(1000):
        world.now_s += 0.01
        passed += world.calls(1)
    assert passed in range(100, 106)


def test_a_refusal_says_when_the_next_call_passes_and_costs_nothing() -> None:
    world = World(per_s=10, burst=2)
    world.calls(2)
    assert world.calls(5) == 0
    with pytest.raises(RateLimited) as caught:
        world.limiter.take("alice")
    assert caught.value.retry_after_s == pytest.approx(0.1)
    world.now_s += 0.099
    assert not world.passes()
    world.now_s += 0.002
    assert world.passes()


def test_callers_have_a_bucket_each() -> None:
    world = World(burst=5)
    assert world.calls(20, "alice") == 5
    assert world.calls(20, "bob") == 5


def test_of_too_many_callers_the_one_that_rested_longest_is_forgotten() -> None:
    world = World(burst=1, max_remembered=2)
    assert world.passes("alice")
    assert world.passes("bob")
    assert not world.passes("alice")  # bob has rested for longer now
    assert world.passes("carol")
    assert not world.passes("alice")
    assert world.passes("bob")
    assert len(world.limiter._full_at_s) == 2


@pytest.mark.parametrize(("per_s", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_limit_that_lets_nothing_pass_is_a_mistake(per_s: float, burst: int) -> None:
    with pytest.raises(ValueError):
        RateLimit(per_s=per_s, burst=burst)
