"""How late the event loop runs what is due: the truest sign that a Python server is overloaded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

INTERVAL_S = 0.05


async def sample_loop_lag(
    *observers: Callable[[float], None],
    interval_s: float = INTERVAL_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Tells the observers the lag, in seconds, every `interval_s`, until it is cancelled."""
    while True:
        due_s = clock() + interval_s
        await sleep(interval_s)
        lag_s = max(0.0, clock() - due_s)
        for observe in observers:
            observe(lag_s)
