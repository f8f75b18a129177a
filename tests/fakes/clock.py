"""The time of day, as a test says it is."""

from __future__ import annotations

from datetime import datetime, timedelta

from fakes.orders import NOW


class FakeClock:
    """A `Clock` that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by

    def monotonic(self) -> float:
        """The same as a `MonotonicClock`: seconds since NOW."""
        return (self.now - NOW).total_seconds()
