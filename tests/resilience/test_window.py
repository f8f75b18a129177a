from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from resilience.virtual_time import VirtualTime

from orderflow_client.resilience.window import SlidingCount


@given(st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=100))
@settings(deadline=None)  # the machine may be busy
def test_it_counts_what_is_in_the_window_and_nothing_else(
    additions: list[tuple[int, bool]],
) -> None:
    """In whole seconds, and buckets of a second, it is exact."""
    time = VirtualTime()
    window = SlidingCount(5, buckets=5, clock=time.clock)
    added: list[tuple[float, bool]] = []
    for passed_s, marked in additions:
        time.now_s += passed_s
        recent = [mark for at, mark in added if time.now_s - at < 5]
        assert window.counts() == (len(recent), sum(recent))
        window.add(marked=marked)
        added.append((time.now_s, marked))


def test_it_can_be_cleared() -> None:
    window = SlidingCount(5, buckets=5, clock=VirtualTime().clock)
    window.add(marked=True)
    window.clear()
    assert window.counts() == (0, 0)
