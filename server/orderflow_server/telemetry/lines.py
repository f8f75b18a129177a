"""Where log lines go: a text file, in an event loop some milliseconds later, many at a time.

Each write to a file lets other threads have their turn, and a busy event loop then waits for its
own to come again: written one by one, the lines of a loaded service cost it more than all else
that is done to see a call. To make a text of many events at once takes less, too, than of each in
the middle of its call. What a process that is killed (SIGKILL) said in its last milliseconds is
lost, but for errors, which are written at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import TextIO

DELAY_S = 0.01


Line = str | Callable[[], str]
"""A line, or what makes it when it is written."""


class Lines:
    """A logger of structlog's; for any number of threads.

    Args:
        file: Takes the text.
        delay_s: How long a line may wait for others, in seconds.
    """

    def __init__(self, file: TextIO, *, delay_s: float = DELAY_S) -> None:
        self._file = file
        self._delay_s = delay_s
        # Takes what any thread appends, without a lock, which every line would have to take.
        self._waiting: deque[Line] = deque()
        self._flushing = threading.Lock()
        self._scheduled = False

    def later(self, line: Line) -> None:
        """Writes the line with those that come soon; at once where no event loop runs."""
        self._waiting.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if not self._scheduled:
            self._scheduled = True
            loop.call_later(self._delay_s, self.flush)

    def now(self, line: Line) -> None:
        """Writes the line, and those that wait."""
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Writes what waits."""
        with self._flushing:
            # Before the first is taken: a line that comes later than that has a flush to come.
            self._scheduled = False
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if waiting and not self._file.closed:
                self._file.write("\n".join([*map(_made, waiting), ""]))
                self._file.flush()

    msg = log = debug = info = warning = warn = later
    error = exception = critical = fatal = now


def _made(line: Line) -> str:
    if isinstance(line, str):
        return line
    try:
        return line()
    except Exception as error:  # noqa: BLE001  the other lines must be written
        return f'{{"event":"a log line cannot be written","error":"{type(error).__qualname__}"}}'
