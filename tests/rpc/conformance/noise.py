"""What a library says when nobody asked: each of it is a defect somewhere."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


@contextmanager
def recorded_noise() -> Iterator[list[str]]:
    """Collects what goes to the event loop's exception handler, the log and the warnings."""
    heard: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            cause = record.exc_info[1] if record.exc_info else ""
            heard.append(f"{record.name}: {record.getMessage()} {cause}")

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        heard.append(f"unraisable: {args.err_msg} {args.exc_value!r} {args.object!r}")

    def unhandled(_loop: asyncio.AbstractEventLoop, details: dict[str, Any]) -> None:
        heard.append(f"event loop: {details['message']} {details.get('exception')!r}")

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(unhandled)
    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard
            # What is only found when it is garbage.
            gc.collect()
            heard.extend(f"warning: {warning.message}" for warning in warned)
    finally:
        sys.unraisablehook = hook
        logging.getLogger().removeHandler(handler)
        loop.set_exception_handler(None)


@contextmanager
def threads_of_its_own() -> Iterator[list[threading.Thread]]:
    """Gives the event loop a new pool of threads, and collects them."""
    threads: list[threading.Thread] = []
    pool = ThreadPoolExecutor(initializer=lambda: threads.append(threading.current_thread()))
    asyncio.get_running_loop().set_default_executor(pool)
    try:
        yield threads
    finally:
        pool.shutdown(wait=False)


async def leftovers(
    before: set[asyncio.Task[Any]], threads: list[threading.Thread], *, timeout_s: float
) -> list[str]:
    """Names the new tasks and the busy threads that are there after the timeout, and ends them."""

    def found() -> list[str]:
        tasks = asyncio.all_tasks() - before
        return [repr(task.get_coro()) for task in tasks] + [
            thread.name for thread in threads if thread.is_alive()
        ]

    names: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while found():
                await asyncio.sleep(0.001)
    except TimeoutError:
        names = found()
    # A thread that waits for a task ends with it, or begins another.
    while found():
        for task in asyncio.all_tasks() - before:
            task.cancel()
        await asyncio.sleep(0.001)
    return names
