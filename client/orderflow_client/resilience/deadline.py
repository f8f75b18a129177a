"""One absolute, monotonic point in time that a call and all it causes must keep to.

The deadline of the work under way travels in a context variable, so that what is called
further down (an outbound call, a queued write) keeps to it without being handed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

MonotonicClock = Callable[[], float]
"""Seconds that only ever grow, such as `time.monotonic`."""

_current: ContextVar[Deadline | None] = ContextVar("orderflow_deadline", default=None)


# Not frozen, though nothing changes it: one is made for every call, and a frozen one takes three
# times as long to make.
@dataclass(slots=True)
class Deadline:
    """A point in time on a monotonic clock.

    Attributes:
        at_s: The clock's reading, in seconds, at which the time is up.
        clock: The clock that `at_s` was read from.
    """

    at_s: float
    clock: MonotonicClock = field(default=time.monotonic, repr=False, compare=False)

    @classmethod
    def after(cls, timeout_s: float, *, clock: MonotonicClock = time.monotonic) -> Deadline:
        return cls(clock() + timeout_s, clock)

    def remaining_s(self) -> float:
        """Seconds left; zero or negative when the time is up."""
        return self.at_s - self.clock()

    @property
    def expired(self) -> bool:
        return self.clock() >= self.at_s

    def earlier_by(self, reserve_s: float) -> Deadline:
        """The deadline for work that must leave `reserve_s` for what comes after it."""
        return Deadline(self.at_s - reserve_s, self.clock)


def earliest(*deadlines: Deadline | None) -> Deadline | None:
    """The one of the deadlines that passes first; None when none is given."""
    first: Deadline | None = None
    for deadline in deadlines:
        if deadline is None:
            continue
        if first is None or deadline.remaining_s() < first.remaining_s():
            first = deadline
    return first


def current() -> Deadline | None:
    """The deadline of the work under way; None when it has none."""
    return _current.get()


def remaining_s(*, reserve_s: float = 0.0) -> float | None:
    """Seconds left of the deadline of the work under way, less `reserve_s`; None without one."""
    deadline = _current.get()
    return None if deadline is None else deadline.remaining_s() - reserve_s


def within(deadline: Deadline | None) -> AbstractContextManager[None]:
    """Makes `deadline` the one that `current` answers, until the block ends."""
    return _Within(deadline)


class _Within(AbstractContextManager[None]):
    # A generator would read better, and take twice as long; each order comes by here four times.
    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: Deadline | None) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = _current.set(self._deadline)

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        _current.reset(self._token)


def enter(deadline: Deadline | None) -> None:
    """Makes `deadline` the one that `current` answers, for the rest of this task.

    For who owns a task from its start: there is nothing to restore at its end.
    """
    _current.set(deadline)
