"""What a call that has ended says, to those who cannot wait: its done callbacks."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

T = TypeVar("T")


def code_of(call: grpc.aio.Call) -> grpc.StatusCode:
    """The status of a call that has ended."""
    return _at_once(call.code())


def trailing_metadata_of(call: grpc.aio.Call) -> grpc.aio.Metadata:
    """The trailing metadata of a call that has ended; empty ones when it has none."""
    return _at_once(call.trailing_metadata())


def _at_once(asking: Coroutine[Any, Any, T]) -> T:
    # Of a call that has ended there is nothing left to wait for.
    try:
        asking.send(None)
    except StopIteration as answer:
        value: T = answer.value
        return value
    asking.close()
    raise AssertionError("unreachable: a call that has ended has all its answers")
