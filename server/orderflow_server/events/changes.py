"""Change notifications inside one process: who writes an order wakes who watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from uuid import UUID

from orderflow_server.orders.errors import FeedClosed


class ChangeHub:
    """Connects the store's commits to the watchers, and to the relay of events.

    Implements the port `ChangeFeed`.

    Holds one signal per watcher and nothing per order, so it never grows with the number of
    changes: a watcher that is slow finds one signal, and reads the rest from the store.
    """

    def __init__(self) -> None:
        self._signals: dict[UUID, set[_Signal]] = {}
        self._every: list[Callable[[], None]] = []
        self._closed = False

    def on_every_change(self, wake: Callable[[], None]) -> None:
        """Has `wake` called whenever orders change, whichever they are."""
        self._every.append(wake)

    @contextmanager
    def subscribe(self, order_id: UUID) -> Iterator[_Signal]:
        signal = _Signal()
        if self._closed:
            signal.close()
        self._signals.setdefault(order_id, set()).add(signal)
        try:
            yield signal
        finally:
            signals = self._signals[order_id]
            signals.discard(signal)
            if not signals:
                del self._signals[order_id]

    def publish(self, order_ids: Iterable[UUID]) -> None:
        """Wakes the watchers of these orders; call it after the commit, in the event loop."""
        for wake in self._every:
            wake()
        if not self._signals:
            return
        for order_id in order_ids:
            for signal in self._signals.get(order_id, ()):
                signal.set()

    def publish_all(self) -> None:
        """Wakes every watcher: something may have been changed that nobody told of."""
        for signals in self._signals.values():
            for signal in signals:
                signal.set()

    def close(self) -> None:
        """Ends every watch, those under way and those to come, with FeedClosed."""
        self._closed = True
        for signals in self._signals.values():
            for signal in signals:
                signal.close()

    @property
    def watchers(self) -> int:
        return sum(len(signals) for signals in self._signals.values())


class _Signal:
    """One watcher's: set when there is something to read."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._closed = False

    def set(self) -> None:
        self._event.set()

    def close(self) -> None:
        self._closed = True
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        if self._closed:
            raise FeedClosed("the server is going away")
        self._event.clear()
