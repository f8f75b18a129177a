"""Lets the database's threads have the interpreter lock while the event loop is busy.

A loop with work to do gives the lock up only for the moment in which it looks for more, and takes
it back before another thread has woken up. That thread then waits anew, and never gets as far as
asking for the lock: with the loop at 100 %, one batch took seconds rather than 10 ms. So while a
thread is at work the loop rests every now and then, for as long as it takes to wake up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

_EVERY_S = 0.001
_REST_S = 0.000_02


class GiveWay:
    """One for all threads of a database. Use within one event loop."""

    def __init__(self) -> None:
        self._threads_at_work = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def to_a_thread(self) -> Iterator[None]:
        """Rests the event loop now and then, until the block ends."""
        self._threads_at_work += 1
        if self._timer is None:
            self._rest_later()
        try:
            yield
        finally:
            self._threads_at_work -= 1
            if self._threads_at_work == 0 and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _rest_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._rest)

    def _rest(self) -> None:
        time.sleep(_REST_S)
        self._rest_later()
