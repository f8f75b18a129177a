"""The change hub: who writes an order wakes who watches it, and nobody else."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from fakes.orders import order_id
from orderflow_server.events.changes import ChangeHub
from orderflow_server.orders.errors import FeedClosed
from orderflow_server.orders.ports import ChangeSignal

ONE, TWO = order_id(1), order_id(2)


async def is_set(signal: ChangeSignal) -> bool:
    """Whether `wait` returns at once; if so the signal is used up."""
    waiting = asyncio.ensure_future(signal.wait())
    for _ in range(3):
        await asyncio.sleep(0)
    if waiting.done():
        waiting.result()
        return True
    waiting.cancel()
    await asyncio.wait({waiting})
    return False


async def test_a_signal_reaches_every_watcher_of_that_order_and_no_other() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as first, hub.subscribe(ONE) as second, hub.subscribe(TWO) as other:
        hub.publish([ONE])
        assert await is_set(first)
        assert await is_set(second)
        assert not await is_set(other)


async def test_who_wants_to_know_of_every_change_does_also_where_nobody_watches() -> None:
    hub = ChangeHub()
    woken: list[str] = []
    hub.on_every_change(lambda: woken.append("relay"))
    hub.publish([ONE])
    hub.publish([TWO])
    assert woken == ["relay", "relay"]


async def test_it_wakes_a_watcher_that_waits() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as signal:
        waiting = asyncio.ensure_future(signal.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        hub.publish([ONE])
        await asyncio.wait_for(waiting, 5)


async def test_signals_are_merged_until_they_are_waited_for() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as signal:
        for _ in range(1000):
            hub.publish([ONE, ONE])
        assert await is_set(signal)
        assert not await is_set(signal)
        hub.publish([ONE])
        assert await is_set(signal)


async def test_what_was_published_before_the_subscription_is_not_told() -> None:
    hub = ChangeHub()
    hub.publish([ONE])
    with hub.subscribe(ONE) as signal:
        assert not await is_set(signal)


async def test_many_orders_at_once() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as one, hub.subscribe(TWO) as two:
        hub.publish(order_id(number) for number in range(100))
        assert await is_set(one)
        assert await is_set(two)


async def test_nothing_is_kept_for_orders_that_nobody_watches() -> None:
    hub = ChangeHub()
    with ExitStack() as watches:
        for number in range(100):
            watches.enter_context(hub.subscribe(order_id(number % 10)))
        assert hub.watchers == 100
    hub.publish([ONE])
    assert hub.watchers == 0
    assert hub._signals == {}


async def test_a_watcher_that_fails_is_forgotten_and_the_others_are_not() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as stays:
        with pytest.raises(ZeroDivisionError), hub.subscribe(ONE):
            raise ZeroDivisionError
        assert hub.watchers == 1
        hub.publish([ONE])
        assert await is_set(stays)


async def test_closing_ends_the_waits_under_way_and_those_to_come() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as signal:
        waiting = asyncio.ensure_future(signal.wait())
        await asyncio.sleep(0)
        hub.close()
        for wait in (waiting, signal.wait(), signal.wait()):
            with pytest.raises(FeedClosed):
                await asyncio.wait_for(wait, 5)
    with hub.subscribe(ONE) as late, pytest.raises(FeedClosed):
        await asyncio.wait_for(late.wait(), 5)
    assert hub.watchers == 0


async def test_a_change_after_the_closing_does_not_open_it_again() -> None:
    hub = ChangeHub()
    with hub.subscribe(ONE) as signal:
        hub.close()
        hub.publish([ONE])
        with pytest.raises(FeedClosed):
            await signal.wait()
