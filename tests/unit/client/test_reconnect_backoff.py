"""The clients of a restarted server do not connect at the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import grpc
import pytest

from orderflow_client.channel import open_channel

INITIAL = "grpc.initial_reconnect_backoff_ms"
LONGEST = "grpc.max_reconnect_backoff_ms"


async def test_each_channel_draws_its_own_bounds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    open_one = grpc.aio.insecure_channel

    def noting(target: str, options: Sequence[tuple[str, Any]], **more: Any) -> grpc.aio.Channel:
        given.append(dict(options))
        return open_one(target, options, **more)

    monkeypatch.setattr(grpc.aio, "insecure_channel", noting)
    random = Random(1)
    for _ in range(100):
        async with open_channel("127.0.0.1:9", contract={}, random=random):
            pass
    initial = {options[INITIAL] for options in given}
    longest = {options[LONGEST] for options in given}
    assert len(initial) > 50
    assert len(longest) > 50
    assert min(initial) >= 100
    assert max(initial) <= 300
    assert min(longest) >= 1_000
    assert max(longest) <= 2_000


async def test_the_connections_of_one_channel_have_the_same_bounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gRPC shares a connection only between channels of equal options."""
    given: list[dict[str, Any]] = []
    open_one = grpc.aio.insecure_channel

    def noting(target: str, options: Sequence[tuple[str, Any]], **more: Any) -> grpc.aio.Channel:
        given.append(dict(options))
        return open_one(target, options, **more)

    monkeypatch.setattr(grpc.aio, "insecure_channel", noting)
    async with open_channel("127.0.0.1:9", contract={}, connections=3, random=Random(1)):
        pass
    assert len(given) == 4  # and the fallback, which asks for no health
    assert len({(options[INITIAL], options[LONGEST]) for options in given}) == 1
