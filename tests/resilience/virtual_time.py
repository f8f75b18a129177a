"""Time that passes only when something waits for it."""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


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


class _Selector(selectors.SelectSelector):
    """Instead of waiting it lets the time pass."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is due: it would hang for ever")
        self._time.now_s += max(timeout, 0.0)
        return super().select(0)


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose timers are due at once, in their order, and whose clock says so."""

    def __init__(self) -> None:
        self.virtual = VirtualTime()
        super().__init__(_Selector(self.virtual))
        self.complaints: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, complaint: self.complaints.append(complaint))

    def time(self) -> float:
        return self.virtual.now_s


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Makes of a coroutine a test that runs on a `VirtualEventLoop`.

    It must leave no task behind, and no error that nobody looked at.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = VirtualEventLoop()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_leaving_nothing_behind(test(*args, **kwargs)))
        assert loop.complaints == []

    return run


async def _leaving_nothing_behind(test: Coroutine[Any, Any, None]) -> None:
    await test
    assert asyncio.all_tasks() == {asyncio.current_task()}


def now_s() -> float:
    """The time of the running loop, as a clock."""
    return asyncio.get_running_loop().time()
