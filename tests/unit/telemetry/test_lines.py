"""When log lines are written."""

from __future__ import annotations

import asyncio
import io
import threading

from orderflow_server.telemetry.line_writer import FileSink
from orderflow_server.telemetry.lines import Lines


class File(io.StringIO):
    """Notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def test_without_an_event_loop_each_line_is_written_at_once() -> None:
    file = File()
    lines = Lines(FileSink(file))
    lines.info("a")
    lines.info("b")
    assert file.writes == ["a\n", "b\n"]


async def test_in_an_event_loop_lines_that_come_together_are_written_together() -> None:
    file = File()
    lines = Lines(FileSink(file), delay_s=0.0)
    lines.info("a")
    lines.warning("b")
    assert file.writes == []
    await asyncio.sleep(0.001)
    assert file.writes == ["a\nb\n"]
    lines.info("c")
    await asyncio.sleep(0.001)
    assert file.writes == ["a\nb\n", "c\n"]


async def test_an_error_takes_what_waits_along_at_once() -> None:
    file = File()
    lines = Lines(FileSink(file), delay_s=60.0)
    lines.info("a")
    lines.error("b")
    assert file.writes == ["a\n", "b\n"]


async def test_what_waits_is_written_by_a_flush_once() -> None:
    file = File()
    lines = Lines(FileSink(file), delay_s=0.0)
    lines.info("a")
    lines.flush()
    await asyncio.sleep(0.001)
    assert file.writes == ["a\n"]


async def test_a_thread_without_a_loop_does_not_wait_for_that_of_another() -> None:
    file = File()
    lines = Lines(FileSink(file), delay_s=60.0)
    lines.info("a")
    thread = threading.Thread(target=lines.info, args=("b",))
    thread.start()
    thread.join()
    assert file.writes == ["a\nb\n"]
