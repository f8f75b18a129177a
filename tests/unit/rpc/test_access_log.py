"""The line of a call: how important it is, and what it says."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import grpc
import pytest
from structlog.testing import capture_logs

from orderflow_client.resilience.limiter import Overloaded
from orderflow_server.rpc.call import UNKNOWN_METHOD, Method, ServerCall
from orderflow_server.rpc.interceptors.access_log import access_log
from orderflow_server.telemetry.correlation import call_names

METHOD = Method.parse("/test.Service/Get")
WATCH = Method.parse("/test.Service/Watch")
LOGGED = access_log(slow_call_s=1.0, streams=[WATCH.path])


class Context:
    """The context of a call with a name and no deadline."""

    def __init__(self) -> None:
        self.set: grpc.StatusCode | None = None

    def code(self) -> grpc.StatusCode | None:
        return self.set

    def set_code(self, code: grpc.StatusCode) -> None:
        self.set = code

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "call-7"),)

    def time_remaining(self) -> None:
        return None


class Failed(Exception):
    """What a handler of a test fails of."""


def server_call(method: Method = METHOD, *, took_s: float = 0.0) -> ServerCall:
    call = ServerCall(method, Context())  # type: ignore[arg-type]  # all it needs
    call.started_s = time.perf_counter() - took_s
    return call


async def line_of(call: ServerCall, code: grpc.StatusCode, error: BaseException | None) -> Any:
    """The one line that is written when the call ends so."""

    async def end(call: ServerCall) -> None:
        call.context.set_code(code)
        call.error = error
        if error is not None:
            raise Failed

    with capture_logs() as logs:
        try:
            await LOGGED(call, end)
        except Failed:
            assert error is not None
    [line] = logs
    return line


def charge() -> NoReturn:
    try:
        raise ConnectionResetError("reset by peer")  # noqa: TRY301  the cause of the next
    except ConnectionResetError as error:
        raise RuntimeError("cannot charge") from error


def failure() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        charge()
    return caught.value


async def test_the_line_of_a_call_that_ends_well() -> None:
    line = await line_of(server_call(took_s=0.25), grpc.StatusCode.OK, None)
    assert 250 <= line.pop("latency_ms") < 1000
    assert line == {
        "event": "call",
        "log_level": "info",
        "code": "OK",
    }


@pytest.mark.parametrize(
    ("code", "level", "event"),
    [
        (grpc.StatusCode.NOT_FOUND, "info", "call"),
        (grpc.StatusCode.CANCELLED, "info", "call"),
        (grpc.StatusCode.UNAVAILABLE, "warning", "call refused"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "warning", "call refused"),
        (grpc.StatusCode.INTERNAL, "error", "call failed"),
        (grpc.StatusCode.UNIMPLEMENTED, "error", "call failed"),
    ],
)
async def test_how_important_a_line_is(code: grpc.StatusCode, level: str, event: str) -> None:
    line = await line_of(server_call(), code, failure())
    assert (line["log_level"], line["event"], line["code"]) == (level, event, code.name)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
async def test_what_is_unusual_tells_every_cause(code: grpc.StatusCode) -> None:
    error = failure()
    line = await line_of(server_call(), code, error)
    assert line["causes"] == [
        {"type": "RuntimeError", "message": "cannot charge"},
        {"type": "ConnectionResetError", "message": "reset by peer"},
    ]
    assert line.get("exc_info") is (error if code is grpc.StatusCode.INTERNAL else None)


async def test_a_slow_call_is_a_warning() -> None:
    line = await line_of(server_call(took_s=1.5), grpc.StatusCode.OK, None)
    assert (line["log_level"], line["event"]) == ("warning", "slow call")


async def test_a_stream_may_take_as_long_as_it_likes() -> None:
    line = await line_of(server_call(WATCH, took_s=1.5), grpc.StatusCode.OK, None)
    assert line["log_level"] == "info"


async def test_who_tries_names_of_methods_makes_no_error_of_it() -> None:
    call = server_call(UNKNOWN_METHOD)
    line = await line_of(call, grpc.StatusCode.UNIMPLEMENTED, failure())
    assert (line["log_level"], line["event"]) == ("info", "no such method")
    assert not {"exc_info", "causes"} & line.keys()


async def test_a_call_that_was_shed_has_no_line_of_its_own() -> None:
    call = server_call()
    call.error = Overloaded("full", name="calls", retry_after_s=0.1)

    async def shed(_call: ServerCall) -> None:
        raise Failed

    with capture_logs() as logs, pytest.raises(Failed):
        await LOGGED(call, shed)
    assert logs == []


async def test_what_is_logged_during_a_call_has_its_names() -> None:
    seen: dict[str, Any] = {}

    async def look(_call: ServerCall) -> None:
        seen.update(call_names.get() or {})

    with capture_logs():
        await LOGGED(server_call(), look)
    assert seen == {"request_id": "call-7", "method": "Get"}
