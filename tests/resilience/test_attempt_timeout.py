from __future__ import annotations

import pytest
from resilience.virtual_time import VirtualTime

from orderflow_client.resilience import deadline
from orderflow_client.resilience.attempt_timeout import AttemptTimeout
from orderflow_client.resilience.deadline import Deadline


async def remaining_s() -> float | None:
    return deadline.remaining_s()


async def test_each_attempt_has_all_of_it() -> None:
    time = VirtualTime()
    timeout = AttemptTimeout(2, clock=time.clock)
    for _ in range(3):
        assert await timeout.run(remaining_s) == 2
        time.now_s += 1
    assert deadline.current() is None


async def test_it_is_never_later_than_the_calls_own() -> None:
    time = VirtualTime()
    timeout = AttemptTimeout(2, clock=time.clock)
    with deadline.within(Deadline.after(3, clock=time.clock)):
        assert await timeout.run(remaining_s) == 2
        time.now_s += 1.5
        assert await timeout.run(remaining_s) == 1.5
        assert deadline.remaining_s() == 1.5


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
def test_it_must_be_one(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        AttemptTimeout(timeout_s)
