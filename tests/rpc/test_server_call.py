"""How a cancelled call ended: at its deadline, or by its caller."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from rpc.chained import PATH

from orderflow_client.resilience.deadline import Deadline
from orderflow_server.rpc.call import Method, ServerCall


class NoMetadata:
    """The context of a call with so long a deadline, if any."""

    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float | None:
        return self._remaining_s


def server_call(remaining_s: float | None) -> tuple[ServerCall, list[float]]:
    """A call, and the seconds that have passed since it came."""
    call = ServerCall(Method.parse(PATH), NoMetadata(remaining_s))  # type: ignore[arg-type]  # all it needs
    now = [0.0]
    if remaining_s is not None:
        call.deadline = Deadline(remaining_s, lambda: now[0])
    return call, now


@pytest.mark.parametrize(
    ("remaining_s", "after_s", "code"),
    [
        (None, 1e6, grpc.StatusCode.CANCELLED),
        (30.0, 30.1, grpc.StatusCode.DEADLINE_EXCEEDED),
        (30.0, 15.0, grpc.StatusCode.CANCELLED),
        # The caller's own timer comes first: it rounds up what it sends by as much as a percent.
        (30.3, 30.0, grpc.StatusCode.DEADLINE_EXCEEDED),
        (0.1, 0.098, grpc.StatusCode.DEADLINE_EXCEEDED),
        (0.1, 0.07, grpc.StatusCode.CANCELLED),
        (0.01, 0.006, grpc.StatusCode.CANCELLED),
    ],
)
def test_a_cancellation_at_the_deadline_is_the_deadline(
    remaining_s: float | None, after_s: float, code: grpc.StatusCode
) -> None:
    call, now = server_call(remaining_s)
    now[0] = after_s
    call.settle(asyncio.CancelledError())
    assert call.code is code


def test_what_a_cancellation_was_does_not_change_while_cleaning_up() -> None:
    call, now = server_call(1.0)
    call.settle(asyncio.CancelledError())
    now[0] = 2.0
    call.settle(asyncio.CancelledError())
    assert call.code is grpc.StatusCode.CANCELLED
