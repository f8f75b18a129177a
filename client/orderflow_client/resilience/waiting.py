"""Time that a call spends waiting for somebody else, which says nothing about the load here.

A limiter that took a slow dependency for its own overload would refuse calls that it has the
means to serve.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from orderflow_client.resilience.deadline import MonotonicClock


class Waited:
    """How long a call has waited elsewhere so far, in seconds."""

    __slots__ = ("total_s",)

    def __init__(self) -> None:
        self.total_s = 0.0


_current: ContextVar[Waited | None] = ContextVar("orderflow_waited", default=None)


def count_in(waited: Waited) -> None:
    """Has `elsewhere` add to `waited` for the rest of this task, and in those it starts.

    For who owns a task from its start: there is nothing to restore at its end.
    """
    _current.set(waited)


@contextmanager
def elsewhere(*, clock: MonotonicClock = time.monotonic) -> Iterator[None]:
    """What is awaited in the block is somebody else's work."""
    waited = _current.get()
    if waited is None:
        yield
        return
    began_s = clock()
    try:
        yield
    finally:
        waited.total_s += clock() - began_s
