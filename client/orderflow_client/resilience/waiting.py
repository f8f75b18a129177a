"""Time that a call spends waiting for somebody else, which says nothing about the load here.

A limiter that took a slow dependency for its own overload would refuse calls that it has the
means to serve.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType

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


def elsewhere(*, clock: MonotonicClock = time.monotonic) -> AbstractContextManager[None]:
    """What is awaited in the block is somebody else's work."""
    return _Elsewhere(_current.get(), clock)


class _Elsewhere:
    # A generator would cost more, and each order comes by here.
    __slots__ = ("_began_s", "_clock", "_waited")

    def __init__(self, waited: Waited | None, clock: MonotonicClock) -> None:
        self._waited = waited
        self._clock = clock

    def __enter__(self) -> None:
        self._began_s = self._clock()

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._waited is not None:
            self._waited.total_s += self._clock() - self._began_s
