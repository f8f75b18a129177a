"""Render log lines in the event loop some milliseconds later, many at a time, for a sink.

To make a text of many events at once takes less than of each in the middle of its call, and to
hand it over at once takes less, too. The sink writes it in another thread, because a file can
block. A process that is killed (SIGKILL) loses the lines of its last milliseconds; errors are
handed over at once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from orderflow_server.telemetry.line_writer import Sink

DELAY_S = 0.01


Line = str | Callable[[], str]
"""A line, or what makes it when it is written."""


class Lines:
    """A logger of structlog's; for any number of threads.

    Args:
        sink: Takes the text.
        delay_s: How long a line may wait for others, in seconds.
    """

    def __init__(self, sink: Sink, *, delay_s: float = DELAY_S) -> None:
        self._sink = sink
        self._delay_s = delay_s
        # Takes what any thread appends, without a lock, which every line would have to take.
        self._waiting: deque[Line] = deque()
        # Reentrant: the garbage collector may run inside a flush, and what it ends may log.
        self._flushing = threading.RLock()
        self._scheduled = False

    def later(self, line: Line) -> None:
        """Hand over the line with those that come soon; at once where no event loop runs."""
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
        """Hand over the lines that wait, then this one as urgent."""
        with self._flushing:
            self.flush()
            self._sink.put(f"{made(line)}\n", lines=1, urgent=True)

    def flush(self) -> None:
        """Hand over the lines that wait."""
        with self._flushing:
            # Before the first is taken: a line that comes later than that has a flush to come.
            self._scheduled = False
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if waiting:
                text = "\n".join([*map(made, waiting), ""])
                self._sink.put(text, lines=len(waiting), urgent=False)

    msg = log = debug = info = warning = warn = later
    error = exception = critical = fatal = now


def made(line: Line) -> str:
    """Return the text of a line. Never raises."""
    if isinstance(line, str):
        return line
    try:
        return line()
    except Exception as error:  # noqa: BLE001  the other lines must be written
        return f'{{"event":"a log line cannot be written","error":"{type(error).__qualname__}"}}'
