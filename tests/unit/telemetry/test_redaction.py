"""Secrets that were put into the log by mistake, and do not get there."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
import structlog

from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.telemetry.logs import finishing
from orderflow_server.telemetry.redaction import redact, redacted_text

SECRET = "canary-4242"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        (f"postgres://app:{SECRET}@db/orders", "postgres://app:***@db/orders"),
        (f"postgres://app:{SECRET}@a,b@db:5432/x", "postgres://app:***@db:5432/x"),
        (f"at postgresql+asyncpg://:{SECRET}@db!", "at postgresql+asyncpg://:***@db!"),
        (f"postgres:/app:{SECRET}@db/orders", "postgres:/app:***@db/orders"),
        (f"of http://a:{SECRET}@x and ftp://b:{SECRET}@y", "of http://a:***@x and ftp://b:***@y"),
        (f"host=db password={SECRET} user=app", "host=db password=*** user=app"),
        (f"/orders?token={SECRET}&page=2", "/orders?token=***&page=2"),
        (f'payment_token: "{SECRET} \\" {SECRET}" items: 2', "payment_token: *** items: 2"),
        (f"Draft(payment_token='{SECRET}', n=1)", "Draft(payment_token=***, n=1)"),
        (f"{{'Password': '{SECRET}'}}", "{'Password': ***}"),
        (f'{{"password": "{SECRET}", "a": 1}}', '{"password": ***, "a": 1}'),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"(('authorization', 'Bearer {SECRET}'),)", "(('authorization', ***),)"),
        (f"no such payment_token '{SECRET}'", "no such payment_token ***"),
        (f"Bearer eyJhbGciOi.eyJzdWIi.{SECRET} is bad", "Bearer *** is bad"),
        (f"eyJhbGciOi.eyJzdWIi.{SECRET}", "***"),
    ],
)
def test_a_secret_in_a_text_is_replaced(text: str, redacted: str) -> None:
    assert redacted_text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "call",
        "http://127.0.0.1:50051/orders",
        "ipv4:127.0.0.1:50051 of ada@example.org",
        "postgres://app@db/orders",
        "the page_token is of another query",
        "page_token: abc",
        "a token is missing",
        "payment_token",
        "eyJust a word",
    ],
)
def test_a_text_without_a_secret_stays_the_same_object(text: str) -> None:
    assert redacted_text(text) is text


@dataclass
class Opaque:
    password: str


def test_values_are_redacted_at_any_depth_by_their_name_or_their_form() -> None:
    event: dict[str, Any] = {
        "event": "tried",
        "attempt": 3,
        "late": False,
        "none": None,
        "token": SECRET,
        "PASSWORD": 4242,
        "urls": [f"a://b:{SECRET}@c", {"inner": {"payment_token": [SECRET]}}],
        "metadata": (("authorization", f"Bearer {SECRET}"), ("x-request-id", "7")),
        "opaque": Opaque(SECRET),
        "request": pb.CreateOrderRequest(payment_token=SECRET),
        "cause": ConnectionError(f"a://b:{SECRET}@c"),
    }
    redacted = redact(None, "info", event)
    assert SECRET not in repr(redacted)
    assert redacted["event"] == "tried"
    assert (redacted["attempt"], redacted["late"], redacted["none"]) == (3, False, None)
    assert (redacted["token"], redacted["PASSWORD"]) == ("***", "***")
    assert redacted["urls"] == ["a://b:***@c", {"inner": {"payment_token": "***"}}]
    assert list(redacted["metadata"])[1] == ("x-request-id", "7")


def test_objects_that_hold_no_secret_are_left_to_the_renderer() -> None:
    value = object()
    assert redact(None, "info", {"value": value})["value"] is value


def lose_the_connection() -> NoReturn:
    error = ConnectionError(f"cannot reach postgres://app:{SECRET}@db")
    error.add_note(f"password={SECRET}")
    raise error


def raise_chain() -> NoReturn:
    try:
        lose_the_connection()
    except ConnectionError as error:
        raise RuntimeError("orders cannot be read") from error


@pytest.mark.parametrize("console", [False, True])
def test_a_logged_exception_keeps_its_causes_and_loses_its_secrets(*, console: bool) -> None:
    out = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=finishing(console=console),
        wrapper_class=structlog.make_filtering_bound_logger("debug"),
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    try:
        raise_chain()
    except RuntimeError as error:
        log.error("call failed", exc_info=error)  # noqa: TRY400  as the access log does it
        log.exception("call failed")
    written = out.getvalue()
    assert SECRET not in written
    assert "postgres://app:***@db" in written
    assert written.count("RuntimeError") >= 2
    assert "ConnectionError" in written
    if not console:
        for line in written.splitlines():
            assert json.loads(line)["event"] == "call failed"


def test_a_long_text_takes_time_in_proportion_to_its_length() -> None:
    """Each would take minutes where the pattern looked at every part again from every start."""
    for piece in ("://a:", ":/a", "token", "token ", "token:", "'", 'token="\\', "@"):
        redacted_text(piece * 100_000 + "@" + ":/")
