"""What a library says when nobody asked: each of it is a defect somewhere."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
from collections.abc import Iterator
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


async def remaining_tasks(before: set[asyncio.Task[Any]], *, timeout_s: float) -> list[str]:
    """Names the tasks that have come since and are still there after the timeout, and ends them."""
    names: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0.001)
    except TimeoutError:
        names = [repr(task.get_coro()) for task in asyncio.all_tasks() - before]
    # A thread that waits for one may begin another.
    quiet = 0
    while quiet < 3:
        tasks = asyncio.all_tasks() - before
        quiet = 0 if tasks else quiet + 1
        for task in tasks:
            task.cancel()
        await asyncio.sleep(0.001)
    return names
