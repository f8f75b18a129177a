"""Where log lines go: a text file, in an event loop some milliseconds later, many at a time.

Each write to a file lets other threads have their turn, and a busy event loop then waits for its
own to come again: written one by one, the lines of a loaded service cost it more than all else
that is done to see a call. What a process that is killed (SIGKILL) said in its last
milliseconds is lost, but for errors, which are written at once.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TextIO

DELAY_S = 0.01


class Lines:
    """A logger of structlog's; for any number of threads.

    Args:
        file: Takes the text.
        delay_s: How long a line may wait for others, in seconds.
    """

    def __init__(self, file: TextIO, *, delay_s: float = DELAY_S) -> None:
        self._file = file
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._scheduled = False

    def later(self, line: str) -> None:
        """Writes the line with those that come soon; at once where no event loop runs."""
        self._add(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if not self._scheduled:
            self._scheduled = True
            loop.call_later(self._delay_s, self.flush)

    def now(self, line: str) -> None:
        """Writes the line, and those that wait."""
        self._add(line)
        self.flush()

    def _add(self, line: str) -> None:
        # Locked: another thread may be writing, and forget, the list that this one appends to.
        with self._lock:
            self._waiting.append(line)

    def flush(self) -> None:
        """Writes what waits."""
        with self._lock:
            self._scheduled = False
            waiting, self._waiting = self._waiting, []
            if waiting and not self._file.closed:
                self._file.write("\n".join([*waiting, ""]))
                self._file.flush()

    msg = log = debug = info = warning = warn = later
    error = exception = critical = fatal = now
