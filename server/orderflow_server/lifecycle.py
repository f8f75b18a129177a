"""How a process begins and ends: signals, and in which order things stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog

log = structlog.get_logger("orderflow.lifecycle")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets. A second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("stopping", signal=number.name)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


class StoppedEarly(Exception):
    """The word to stop came before the service did anything else."""


@asynccontextmanager
async def given_up_at(stop: asyncio.Event) -> AsyncIterator[None]:
    """Cancels what the block does when `stop` is set meanwhile.

    Raises:
        StoppedEarly: It was.
    """
    loop = asyncio.get_running_loop()

    async def give_up() -> None:
        await stop.wait()
        scope.reschedule(loop.time())

    scope = asyncio.timeout(None)
    try:
        async with scope:
            watching = asyncio.create_task(give_up())
            try:
                yield
            finally:
                watching.cancel()
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise StoppedEarly from error


@contextmanager
def stop_with_stdin(stop: asyncio.Event) -> Iterator[None]:
    """Sets the event when standard input ends; when it was set already, ends the process at once.

    For a process whose starter holds the other end: its own end, however it came, is the word to
    stop.
    """
    loop = asyncio.get_running_loop()
    stdin = sys.stdin.fileno()

    def on_readable() -> None:
        if os.read(stdin, 1024):
            return
        loop.remove_reader(stdin)
        if stop.is_set():
            os._exit(1)
        log.warning("stopping, the process that started this one is gone")
        stop.set()

    loop.add_reader(stdin, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(stdin)


def open_standard_descriptors() -> None:
    """Open the null device for each standard descriptor that the process was started without.

    Otherwise the first file or socket would get its number, and text meant for people.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given, which is this one.
            os.open(os.devnull, os.O_RDWR)


def let_threads_finish_their_turns() -> None:
    """Has the kernel not interrupt one thread of this process for another that has just woken up.

    gRPC's threads and the database's wake for a few microseconds each, several times for every
    call, and by default each of them may push the event loop's thread off its core. With this
    policy (sched(7), SCHED_BATCH) they wait for a free core or the end of its turn: a tenth less
    CPU for an order. The price: the loop does not push others off theirs either, and beside a
    process that never rests it waits for the end of that one's turn, a few milliseconds.

    For the thread that calls it and all that are started from here on. Where it is not allowed, or
    who started the process chose another policy than the default, nothing changes.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


_YOUNG_OBJECTS = 2_000
"""After how many new objects, less those that are gone, a collection begins. Each adds about half
a microsecond to the pause: 20 000 of them made pauses of 12 ms under load."""


def leave_alone_what_stays() -> None:
    """Has the garbage collector forget all that the process has made so far.

    What is there when the service has started (modules, classes, descriptors) stays until its end.
    Every full collection would look at all of it again, with the event loop standing still.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
