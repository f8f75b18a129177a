from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st
from resilience.virtual_time import VirtualTime

from orderflow_client.resilience.latency import LatencyTracker


def test_nothing_is_known_at_first() -> None:
    latencies = LatencyTracker(clock=VirtualTime().clock)
    for _ in range(19):
        assert latencies.p95_s() is None
        latencies.observe(1)
    latencies.observe(1)
    assert latencies.p95_s() == 1


def test_it_follows_what_is_recent() -> None:
    latencies = LatencyTracker(clock=VirtualTime().clock)
    for latency_s in (1, 2):
        for _ in range(256):
            latencies.observe(latency_s)
        assert latencies.p95_s() == latency_s


def test_what_is_old_is_forgotten() -> None:
    time = VirtualTime()
    latencies = LatencyTracker(window_s=60, clock=time.clock)
    for _ in range(100):
        latencies.observe(1)
    time.now_s += 59
    assert latencies.p95_s() == 1
    time.now_s += 1
    assert latencies.p95_s() is None
    for _ in range(28):
        latencies.observe(2)
    assert latencies.p95_s() == 2


@given(st.lists(st.floats(0, 100), min_size=32, max_size=256))
@settings(deadline=None)  # the machine may be busy
def test_it_is_the_nearest_rank(values: list[float]) -> None:
    values = values[: len(values) // 16 * 16]  # where it is computed anew
    latencies = LatencyTracker(clock=VirtualTime().clock)
    for value in values:
        latencies.observe(value)
    assert latencies.p95_s() == sorted(values)[math.ceil(0.95 * len(values)) - 1]
