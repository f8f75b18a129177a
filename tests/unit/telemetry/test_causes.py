"""The chain of causes of a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import grpc
import pytest

from orderflow_server.telemetry.causes import causes


def reset() -> NoReturn:
    raise ConnectionResetError("reset by peer")


def time_out() -> NoReturn:
    try:
        reset()
    except ConnectionResetError as error:
        raise TimeoutError("no answer") from error


def fail() -> NoReturn:
    try:
        time_out()
    except TimeoutError as error:
        raise RuntimeError("cannot charge") from error


def fail_by_mistake() -> NoReturn:
    try:
        reset()
    except ConnectionResetError:
        raise RuntimeError("and then this")  # noqa: B904  what is tested


def fail_and_hide_why() -> NoReturn:
    try:
        reset()
    except ConnectionResetError:
        raise RuntimeError("all there is to say") from None


def types_of_causes(function: Callable[[], NoReturn]) -> list[str]:
    with pytest.raises(RuntimeError) as caught:
        function()
    return [cause["type"] for cause in causes(caught.value)]


def test_every_cause_is_there_outermost_first() -> None:
    with pytest.raises(RuntimeError) as caught:
        fail()
    assert causes(caught.value) == [
        {"type": "RuntimeError", "message": "cannot charge"},
        {"type": "TimeoutError", "message": "no answer"},
        {"type": "ConnectionResetError", "message": "reset by peer"},
    ]


def test_an_error_while_another_was_handled_names_both_unless_it_says_not_to() -> None:
    assert types_of_causes(fail_by_mistake) == ["RuntimeError", "ConnectionResetError"]
    assert types_of_causes(fail_and_hide_why) == ["RuntimeError"]


def test_of_a_failed_call_it_says_the_code_and_not_the_other_sides_text() -> None:
    empty = grpc.aio.Metadata()
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, empty, empty, details="card 4242", debug_error_string="4242"
    )
    assert causes(error) == [{"type": "AioRpcError", "message": "UNAVAILABLE"}]


def test_a_chain_that_bites_its_tail_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one
    assert len(causes(one)) == 16


def test_no_error_has_no_cause() -> None:
    assert causes(None) == []
