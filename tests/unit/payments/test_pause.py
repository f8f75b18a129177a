"""When the gateway is left alone: for as long as its breaker says, as the real breaker tells it."""

from __future__ import annotations

import contextlib

import pytest

from orderflow_client.resilience.breaker import (
    PROBE_RETRY_AFTER_S,
    Breaker,
    BreakerOpen,
    BreakerOptions,
    Outcome,
)
from orderflow_client.resilience.events import CallShed, Criticality, ShedReason
from orderflow_server.payments.pause import GatewayPause


class Scene:
    """A pause and the breaker that it listens to. The breaker opens at the first failure."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.pause = GatewayPause(clock=lambda: self.now_s)
        self.breaker = Breaker(
            "gateway",
            BreakerOptions(minimum_attempts=1, open_s=5.0),
            classify=lambda _: Outcome.FAILURE,
            listeners=[self.pause],
            random=lambda: 0.5,
            clock=lambda: self.now_s,
        )

    async def call(self, *, fails: bool) -> None:
        async def attempt() -> None:
            if fails:
                raise ConnectionError

        with contextlib.suppress(ConnectionError):
            await self.breaker.run(attempt)


def test_without_a_breaker_s_word_there_is_no_pause() -> None:
    pause = GatewayPause()
    assert (pause.left_s, pause.on_trial) == (0.0, False)
    pause(
        CallShed(
            name="calls",
            criticality=Criticality.DEFAULT,
            reason=ShedReason.QUEUE_FULL,
            retry_after_s=9.0,
        )
    )
    assert (pause.left_s, pause.on_trial) == (0.0, False)


async def test_it_lasts_as_long_as_the_breaker_stays_open() -> None:
    scene = Scene()
    await scene.call(fails=True)
    assert scene.pause.left_s == 5.0

    scene.now_s += 4.0
    assert scene.pause.left_s == 1.0
    with pytest.raises(BreakerOpen):
        await scene.call(fails=False)

    scene.now_s += 1.0
    assert (scene.pause.left_s, scene.pause.on_trial) == (0.0, True)


async def test_a_probe_that_fails_prolongs_it_and_one_that_succeeds_ends_it() -> None:
    scene = Scene()
    await scene.call(fails=True)
    scene.now_s += 5.0
    await scene.call(fails=True)
    assert scene.pause.left_s == 10.0

    scene.now_s += 10.0
    await scene.call(fails=False)
    assert (scene.pause.left_s, scene.pause.on_trial) == (0.0, False)


async def test_while_a_probe_is_under_way_nothing_else_is_asked_for_a_while() -> None:
    scene = Scene()
    await scene.call(fails=True)
    scene.now_s += 5.0
    scene.breaker.acquire().ignored()  # Given up: the breaker stays half open, and says nothing.
    assert (scene.pause.left_s, scene.pause.on_trial) == (PROBE_RETRY_AFTER_S, True)

    scene.now_s += PROBE_RETRY_AFTER_S
    assert (scene.pause.left_s, scene.pause.on_trial) == (0.0, True)
