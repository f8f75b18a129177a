"""Write log lines to a file descriptor in a thread, so that a slow reader delays nobody else.

A pipe that is not read takes 64 KiB and then blocks its writer. The event loop must never be that
writer: every call, the health checks and the signal handlers would stop with it.
"""

from __future__ import annotations

import math
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TextIO

LIMIT_BYTES = 4 * 1024 * 1024
"""The text that waits for its reader: some ten thousand lines."""

RESERVE_BYTES = 1024 * 1024
"""The part of the limit that only urgent lines may use."""

COMPLAINT_INTERVAL_S = 60.0


class Sink(Protocol):
    """Takes the text of log lines."""

    def put(self, text: str, *, lines: int, urgent: bool) -> None:
        """Take the text of some lines, each with its end. Never wait for a reader, never raise."""

    @property
    def dropped(self) -> int:
        """The number of lines dropped since the start."""

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything accepted is written; return False when the time is over first."""


class FileSink:
    """Write at once, in the caller's thread: for files in memory, which cannot block.

    Args:
        file: Takes the text. None: there is no file, and lines go nowhere.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def put(self, text: str, *, lines: int, urgent: bool) -> None:  # noqa: ARG002  as in Sink
        if self._file is not None and not self._file.closed:
            self._file.write(text)
            self._file.flush()

    @property
    def dropped(self) -> int:
        return 0

    def drain(self, timeout_s: float) -> bool:  # noqa: ARG002  as in Sink
        return True


class LineWriter:
    """Write the text of log lines in order, in a daemon thread; drop new lines while it is full.

    Dropped lines are counted. Once the text goes out again, one line reports their number. A write
    error loses the lines of that write and is reported at most once a minute.

    Args:
        descriptor: An open file. The writer does not close it. Writing past Python's buffers
            matters: the end of the process would wait for a lock that a blocked write holds.
        encoding: Of the text.
        limit_bytes: Text in memory above which every line is dropped. The last text accepted may
            exceed it.
        reserve_bytes: The part of the limit that only urgent lines may use.
        gap_line: Makes the line that reports a number of dropped lines, without its end.
        complain: Takes a sentence about a write error. Called in the thread.
        clock: Seconds, for the interval between complaints.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        encoding: str = "utf-8",
        limit_bytes: int = LIMIT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
        gap_line: Callable[[int], str],
        complain: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._limit_bytes = limit_bytes
        self._reserve_bytes = reserve_bytes
        self._gap_line = gap_line
        self._complain = complain or write_to_stderr
        self._clock = clock
        # Reentrant: the garbage collector may run inside `put`, and what it ends may log.
        self._changed = threading.Condition(threading.RLock())
        self._texts: deque[tuple[bytes, int]] = deque()
        self._held_bytes = 0
        self._unreported = 0
        self._dropped = 0
        self._thread: threading.Thread | None = None
        self._complained_at_s = -math.inf
        self._within_line = False

    @property
    def dropped(self) -> int:
        """The number of lines dropped since the start."""
        return self._dropped

    def put(self, text: str, *, lines: int, urgent: bool) -> None:
        """Accept the text of some lines, or drop them when too much waits."""
        encoded = text.encode(self._encoding, "backslashreplace")
        limit_bytes = self._limit_bytes if urgent else self._limit_bytes - self._reserve_bytes
        with self._changed:
            if self._held_bytes >= limit_bytes:
                self._count_dropped(lines)
                return
            self._texts.append((encoded, lines))
            self._held_bytes += len(encoded)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything accepted is written; return False when the time is over first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held_bytes, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                # Counted as held until it is written: an unread pipe keeps it.
                encoded, lines = self._texts.popleft()
            try:
                self._write(encoded)
            except OSError as error:
                self._failed(error, lines)
            else:
                self._report_gap()
            with self._changed:
                self._held_bytes -= len(encoded)
                self._changed.notify_all()

    def _report_gap(self) -> None:
        """Write the number of lines dropped, once half of what may wait is written."""
        with self._changed:
            lost, full = self._unreported, self._held_bytes > self._limit_bytes // 2
            if not lost or (full and len(self._texts) > 0):
                return
            self._unreported = 0
        try:
            line = f"{self._gap_line(lost)}\n"
            self._write(line.encode(self._encoding, "backslashreplace"))
        except OSError as error:
            with self._changed:
                self._unreported += lost
            self._failed(error, lines=0)

    def _write(self, encoded: bytes) -> None:
        if self._within_line:
            encoded = b"\n" + encoded
        rest = memoryview(encoded)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                # Another holder of the file made it non-blocking.
                select.select([], [self._descriptor], [])
            except OSError:
                self._within_line |= len(rest) < len(encoded)
                raise
        self._within_line = False

    def _failed(self, error: OSError, lines: int) -> None:
        with self._changed:
            self._count_dropped(lines)
        now_s = self._clock()
        if now_s - self._complained_at_s >= COMPLAINT_INTERVAL_S:
            self._complained_at_s = now_s
            self._complain(
                f"orderflow: log lines cannot be written ({error.strerror or error}), "
                "they are dropped and counted\n"
            )

    def _count_dropped(self, lines: int) -> None:
        self._unreported += lines
        self._dropped += lines


def write_to_stderr(text: str) -> None:
    """Write to standard error past Python's buffer; do nothing where that fails."""
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))


def write_to_stderr_aside(text: str) -> None:
    """Write to standard error in a daemon thread: the caller is not blocked by its reader."""
    threading.Thread(
        target=write_to_stderr, args=(text,), name="stderr writer", daemon=True
    ).start()
