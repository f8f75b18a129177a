"""Sleeping that ends when the test says so."""

from __future__ import annotations

import asyncio


class Naps:
    """A `sleep`; `delays` are those asked for."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self._asleep = asyncio.Event()
        self._alarm = asyncio.Event()

    async def __call__(self, delay_s: float) -> None:
        self.delays.append(delay_s)
        self._alarm.clear()
        self._asleep.set()
        await self._alarm.wait()

    async def fallen_asleep(self) -> None:
        async with asyncio.timeout(5):
            await self._asleep.wait()

    async def next(self) -> None:
        """Ends the present nap and waits for the next one to begin."""
        await self.fallen_asleep()
        self._asleep.clear()
        self._alarm.set()
        await self.fallen_asleep()
