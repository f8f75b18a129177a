"""Log lines go out in a thread: a reader who does not read delays nobody, and costs lines only."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orderflow_server.telemetry.line_writer import LineWriter

LINE = f"{'x' * 99}\n"


@dataclass
class Pipe:
    """A pipe that is full until it is read."""

    read_end: int
    write_end: int
    closed: list[int] = field(default_factory=list)

    def fill(self) -> None:
        os.set_blocking(self.write_end, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.write_end, b"full\n")
        os.set_blocking(self.write_end, True)

    def read_all(self) -> list[str]:
        """Read until the writers have closed it; the lines that did not fill it."""
        with os.fdopen(os.dup(self.read_end), "rb") as file:
            lines = file.read().decode().splitlines(keepends=True)
        return [line.lstrip() for line in lines if not line.startswith("full")]

    def close(self, end: int) -> None:
        if end not in self.closed:
            self.closed.append(end)
            os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(*os.pipe())
    yield made
    # The read end first: a writer that is blocked ends with an error.
    made.close(made.read_end)
    made.close(made.write_end)


def gap_line(number: int) -> str:
    return f"{number} lines dropped"


def writer(pipe: Pipe, *, limit_bytes: int, reserve_bytes: int = 0) -> LineWriter:
    return LineWriter(
        pipe.write_end,
        limit_bytes=limit_bytes,
        reserve_bytes=reserve_bytes,
        gap_line=gap_line,
        complain=lambda _: None,
    )


def read_after(pipe: Pipe, made: LineWriter) -> list[str]:
    """Read everything that the writer holds."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_all()))
    reader.start()
    assert made.drain(10)
    pipe.close(pipe.write_end)
    reader.join()
    return lines


def test_lines_arrive_in_order(pipe: Pipe) -> None:
    made = writer(pipe, limit_bytes=1_000_000)
    expected = [f"{number}\n" for number in range(1_000)]
    for number, line in enumerate(expected):
        made.put(line, lines=1, urgent=number % 7 == 0)
    assert read_after(pipe, made) == expected
    assert made.dropped == 0


def test_lines_that_an_unread_pipe_does_not_take_are_dropped_and_reported_once(pipe: Pipe) -> None:
    pipe.fill()
    made = writer(pipe, limit_bytes=1_000)
    for _ in range(50):
        made.put(LINE, lines=1, urgent=False)
    assert made.dropped == 40
    assert not made.drain(0)
    lines = read_after(pipe, made)
    assert lines.count(LINE) == 10
    assert [line for line in lines if line != LINE] == ["40 lines dropped\n"]
    assert made.dropped == 40


def test_errors_have_a_reserve(pipe: Pipe) -> None:
    pipe.fill()
    made = writer(pipe, limit_bytes=1_000, reserve_bytes=500)
    for _ in range(50):
        made.put(LINE, lines=1, urgent=False)
    for number in range(7):
        made.put(f"error {number} {'e' * 91}\n", lines=1, urgent=True)
    lines = read_after(pipe, made)
    assert lines.count(LINE) == 5
    assert [line[:7] for line in lines if line.startswith("error")] == [
        f"error {number}" for number in range(5)
    ]
    assert made.dropped == 45 + 2


def test_a_non_blocking_pipe_loses_nothing(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.write_end, False)
    made = writer(pipe, limit_bytes=1_000_000)
    made.put(LINE * 1_000, lines=1_000, urgent=False)
    assert read_after(pipe, made) == [LINE] * 1_000


@pytest.mark.parametrize("kind", ["closed pipe", "closed descriptor", "full disk"])
def test_a_write_error_is_reported_once_a_minute(pipe: Pipe, kind: str) -> None:
    seconds = [0.0]
    descriptor = pipe.write_end
    if kind == "closed pipe":
        pipe.close(pipe.read_end)
    elif kind == "closed descriptor":
        descriptor = 1_000_000
    else:
        pipe.close(pipe.write_end)
        descriptor = os.open("/dev/full", os.O_WRONLY)
    texts: list[str] = []
    made = LineWriter(
        descriptor, gap_line=gap_line, complain=texts.append, clock=lambda: seconds[0]
    )

    def lose(count: int) -> None:
        for _ in range(count):
            made.put(LINE, lines=1, urgent=False)
        assert made.drain(10)

    lose(100)
    assert len(texts) == 1
    seconds[0] = 59.9
    lose(1)
    assert len(texts) == 1
    seconds[0] = 60.0
    lose(1)
    assert len(texts) == 2
    assert made.dropped == 102
    if kind == "full disk":
        os.close(descriptor)


def test_lines_are_whole_again_when_writing_works_again(tmp_path: Path) -> None:
    """In a process of its own, whose limit on a file's size stands for a full disk."""
    script = """
import os, resource, signal, sys
from orderflow_server.telemetry.line_writer import LineWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
limit(10)
writer = LineWriter(
    os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT),
    gap_line=lambda number: f"{number} dropped",
    complain=lambda text: None,
)
writer.put("cut in the middle\\n", lines=1, urgent=False)
assert writer.drain(10)
limit(resource.RLIM_INFINITY)
writer.put("next\\n", lines=1, urgent=False)
assert writer.drain(10)
"""
    file = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)
    assert file.read_text().splitlines() == ["cut in the", "next", "1 dropped"]
