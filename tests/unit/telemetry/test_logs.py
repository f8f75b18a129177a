"""What a line looks like, whoever logged it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from fakes.logs import configure, logs_put_back
from orderflow_server.telemetry.correlation import call_names

SECRET = "canary-4242"
TRACER = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("tests")

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def unchanged_logs() -> Iterator[None]:
    with logs_put_back():
        yield


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Reads what has been written since the last time."""
    return lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@contextmanager
def known(names: Mapping[str, str]) -> Iterator[None]:
    token = call_names.set(names)
    try:
        yield
    finally:
        call_names.reset(token)


def lose_the_connection() -> NoReturn:
    raise ConnectionError(f"cannot reach postgres://app:{SECRET}@db")


def test_a_line_is_one_json_object_with_what_is_known_of_the_call(lines: Lines) -> None:
    configure()
    with known({"request_id": "r-1", "method": "GetOrder"}):
        structlog.get_logger("orderflow.rpc").info("call", code="OK", latency_ms=1.5)
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "call",
        "level": "info",
        "request_id": "r-1",
        "method": "GetOrder",
        "code": "OK",
        "latency_ms": 1.5,
    }


def test_lines_within_a_span_have_its_ids_whoever_logged_them(lines: Lines) -> None:
    configure()
    span = TRACER.start_span("GetOrder")
    with trace.use_span(span):
        structlog.get_logger().info("ours")
        logging.getLogger("some.library").warning("theirs")
    structlog.get_logger().info("outside")
    ours, theirs, outside = lines()
    identity = span.get_span_context()
    for line in (ours, theirs):
        assert line["trace_id"] == f"{identity.trace_id:032x}"
        assert line["span_id"] == f"{identity.span_id:016x}"
    assert not {"trace_id", "span_id"} & outside.keys()


def test_a_librarys_line_has_the_same_form_with_its_extra_fields(lines: Lines) -> None:
    configure()
    with known({"request_id": "r-1"}):
        logging.getLogger("some.library").warning("%s is %d", "disk", 7, extra={"path": "/data"})
    [line] = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "disk is 7",
        "level": "warning",
        "logger": "some.library",
        "request_id": "r-1",
        "path": "/data",
    }


def test_a_librarys_line_loses_its_secrets(lines: Lines) -> None:
    configure()
    try:
        lose_the_connection()
    except ConnectionError:
        logging.getLogger("alembic").exception(
            "Authorization: Bearer %s", SECRET, extra={"payment_token": SECRET}
        )
    [line] = lines()
    assert SECRET not in json.dumps(line)
    assert line["event"] == "Authorization: ***"
    [exception] = line["exception"]
    assert exception["exc_value"] == "cannot reach postgres://app:***@db"


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["ours: debug", "ours: info", "ours: warning", "theirs: debug", "client: debug"]),
        ("info", ["ours: info", "ours: warning", "client: info"]),
        ("warning", ["ours: warning"]),
        ("error", []),
    ],
)
def test_libraries_are_heard_from_warnings_on_and_our_own_client_as_the_rest_of_ours(
    lines: Lines, level: str, written: list[str]
) -> None:
    configure(level=level)
    ours = structlog.get_logger("orderflow.test")
    for name in ("debug", "info", "warning"):
        getattr(ours, name)(f"ours: {name}")
    logging.getLogger("some.library").debug("theirs: debug")
    logging.getLogger("orderflow_client.calls").debug("client: debug")
    if level != "debug":
        logging.getLogger("some.library").info("theirs: info")
        logging.getLogger("orderflow_client.calls").info("client: info")
    assert [line["event"] for line in lines()] == written


async def test_what_a_task_failed_of_that_nobody_awaited_is_a_line(lines: Lines) -> None:
    configure()

    async def fail() -> None:
        raise ValueError("unseen")

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    del task
    [line] = lines()
    assert (line["logger"], line["level"]) == ("asyncio", "error")
    assert line["exception"][0]["exc_type"] == "ValueError"


def test_a_warning_is_a_line(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Within, for the block brings back what shows warnings.
        configure()
        warnings.warn("this will go", DeprecationWarning, stacklevel=1)
    [line] = lines()
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "this will go" in line["event"]


def test_a_collector_that_is_away_is_one_line(lines: Lines) -> None:
    configure()
    for _ in range(3):
        logging.getLogger("opentelemetry.exporter.otlp.proto.grpc.exporter").error("Failed")
    [line] = lines()
    assert (line["level"], line["held_back"]) == ("warning", 0)


@dataclass
class Card:
    name: str
    number: str = field(repr=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({1: "one"}, {"1": "one"}),
        ({3}, [3]),
        (2**70, 2**70),
        ("file-\udcff", "file-\udcff"),
        (b"bytes", "b'bytes'"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (Card("alice", number="4242"), "Card(name='alice')"),
    ],
)
def test_any_value_can_be_logged(lines: Lines, value: object, written: object) -> None:
    configure()
    structlog.get_logger().info("odd", value=value)
    [line] = lines()
    assert line["value"] == written


def test_the_console_form_takes_in_libraries_and_redacts_as_well(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(form="console")
    structlog.get_logger().info("ours", payment_token=SECRET)
    logging.getLogger("some.library").warning("password=%s", SECRET)
    written = capsys.readouterr().out
    assert "ours" in written
    assert "some.library" in written
    assert "password=***" in written
    assert SECRET not in written
    assert not written.startswith("{")


@pytest.mark.parametrize("form", ["json", "console"])
def test_another_processor_is_given_every_line_without_its_secrets(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []

    def elsewhere(_logger: Any, _method: str, event: Any) -> Any:
        given.append(dict(event))
        return event

    configure(form=form, otlp=elsewhere)
    try:
        lose_the_connection()
    except ConnectionError:
        structlog.get_logger().exception("ours", token=SECRET)
        logging.getLogger("some.library").exception("theirs")
    assert [line["event"] for line in given] == ["ours", "theirs"]
    assert SECRET not in repr(given)
    for line in given:
        assert line["exception"][0]["exc_type"] == "ConnectionError"
    written = capsys.readouterr().out
    assert SECRET not in written
    assert "ConnectionError" in written


@pytest.mark.parametrize("form", ["json", "console"])
async def test_a_line_that_is_written_later_has_the_exception_of_its_moment(
    form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    written = configure(form=form)
    try:
        lose_the_connection()
    except ConnectionError:
        structlog.get_logger().warning("ours", exc_info=True)
    written.flush()
    assert "ConnectionError" in capsys.readouterr().out


def test_lines_of_many_threads_stay_whole() -> None:
    """In a process of its own, which has a real stdout."""
    script = """
import logging, threading, structlog
from orderflow_server.telemetry.logs import configure_logs
configure_logs(level="info", form="json")
def ours():
    log = structlog.get_logger()
    for number in range(500):
        log.info("x" * 500, number=number)
def theirs():
    for number in range(500):
        logging.getLogger("some.library").warning("y" * 500, extra={"number": number})
threads = [threading.Thread(target=target) for target in (ours, theirs, ours, theirs)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 2000
    assert done.stderr == b""
