"""Time that passes only when something sleeps."""

from __future__ import annotations


class VirtualTime:
    """A clock and a sleep that belong together; `slept` are the delays asked for."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self.now_s += delay_s


def no_jitter() -> float:
    """A random number that leaves every delay as computed."""
    return 0.5
