"""The `orderflow` command, as a process of its own, against a server with scripted answers."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from rpc.scripted_service import HANG, Refusal, Served, reason, serving
from typer.testing import CliRunner

from orderflow.v1 import order_pb2, order_service_pb2
from orderflow_client import item, money
from orderflow_client.cli import app

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
ORDER = order_pb2.Order(
    id=ID,
    customer_id="[bold]c-1",  # no markup to us
    state=order_pb2.ORDER_STATE_PAID,
    items=[item("a:b", 2, money("1234.50", "EUR"))],
    total=money("2469", "EUR"),
    version=2,
    create_time=timestamp_pb2.Timestamp(seconds=1_767_225_600),
    update_time=timestamp_pb2.Timestamp(seconds=1_767_225_601),
)
PENDING = order_pb2.Order(id=ID, version=1, state=order_pb2.ORDER_STATE_PENDING_PAYMENT)
DECLINED = order_pb2.Order(
    id=ID, version=2, state=order_pb2.ORDER_STATE_PAYMENT_DECLINED, decline_reason="no funds"
)
CREATE = ("order", "create", "--customer", "c-1", "--item", "a:b:2:12.50", "--item", "c:1:0.99")


@dataclass(frozen=True)
class Ended:
    code: int | None
    out: str
    err: str


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


async def start(target: str, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orderflow_client", *arguments),
        env={"ORDERFLOW_TARGET": target, "ORDERFLOW_PAYMENT_TOKEN": "tok", "COLUMNS": "120"},
        stdout=PIPE,
        stderr=PIPE,
    )


async def orderflow(target: str, *arguments: str) -> Ended:
    process = await start(target, *arguments)
    out, err = await process.communicate()
    return Ended(process.returncode, out.decode(), err.decode())


async def test_create_sends_the_items_and_waits_for_the_payment(served: Served) -> None:
    served.orders.will("CreateOrder", order_service_pb2.CreateOrderResponse(order=PENDING))
    served.orders.will(
        "WatchOrder",
        [
            order_service_pb2.WatchOrderResponse(order=PENDING),
            order_service_pb2.WatchOrderResponse(order=ORDER),
        ],
    )
    ended = await orderflow(served.target, *CREATE, "--currency", "CHF", "--wait")
    assert (ended.code, ended.err) == (0, "")
    for shown in (ID, "PAID", "2,469.00 EUR", "[bold]c-1", "1,234.50 EUR"):
        assert shown in ended.out
    request = served.orders.received[0].request
    assert request.customer_id == "c-1"
    assert request.payment_token == "tok"
    assert list(request.items) == [
        item("a:b", 2, money("12.50", "CHF")),
        item("c", 1, money("0.99", "CHF")),
    ]


async def test_json_is_one_object_a_line(served: Served) -> None:
    served.orders.will("GetOrder", order_service_pb2.GetOrderResponse(order=ORDER))
    served.orders.will(
        "ListOrders",
        order_service_pb2.ListOrdersResponse(orders=[ORDER, PENDING], next_page_token="t1"),
        order_service_pb2.ListOrdersResponse(orders=[DECLINED]),
    )
    one, many = await asyncio.gather(
        orderflow(served.target, "order", "get", ID, "--json"),
        orderflow(served.target, "order", "list", "--all", "--state", "paid", "--json"),
    )
    assert (one.code, one.err) == (0, "")
    assert json.loads(one.out)["total"] == {"currencyCode": "EUR", "units": "2469"}
    assert (many.code, many.err) == (0, "")
    assert [json.loads(line).get("version") for line in many.out.splitlines()] == ["2", "1", "2"]
    for page in served.orders.attempts("ListOrders"):
        assert page.request.states == [order_pb2.ORDER_STATE_PAID]


async def test_list_shows_one_page_and_where_the_next_begins(served: Served) -> None:
    served.orders.will(
        "ListOrders", order_service_pb2.ListOrdersResponse(orders=[ORDER], next_page_token="t1")
    )
    ended = await orderflow(served.target, "order", "list")
    assert ended.code == 0
    assert ID in ended.out
    assert "2026-01-01 00:00:00Z" in ended.out
    assert ended.err == "more: --page-token t1\n"


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_list_all_prints_each_page_before_it_asks_for_the_next(
    served: Served, form: list[str]
) -> None:
    def page(number: int) -> order_service_pb2.ListOrdersResponse:
        order = order_pb2.Order(id=ID[:-1] + str(number), total=money("1", "EUR"))
        return order_service_pb2.ListOrdersResponse(orders=[order], next_page_token=f"t{number}")

    # As many as there may be attempts.
    served.orders.will("ListOrders", page(1), page(2), *[HANG] * 5)
    process = await start(served.target, "order", "list", "--all", *form)
    assert process.stdout is not None
    text = b""
    async with asyncio.timeout(20):
        while page(2).orders[0].id.encode() not in text:
            line = await process.stdout.readline()
            assert line, text
            text += line
    assert page(1).orders[0].id.encode() in text
    assert text.count(b"placed") == (0 if form else 1)
    await served.orders.hanging.wait()
    asked = [each.request.page_token for each in served.orders.attempts("ListOrders")]
    assert asked[:3] == ["", "t1", "t2"]
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130


async def test_the_columns_of_all_pages_are_the_same(served: Served) -> None:
    short = order_pb2.Order(id=ID, customer_id="c", total=money("1", "EUR"))
    served.orders.will(
        "ListOrders",
        order_service_pb2.ListOrdersResponse(orders=[ORDER], next_page_token="t1"),
        order_service_pb2.ListOrdersResponse(orders=[short]),
    )
    ended = await orderflow(served.target, "order", "list", "--all")
    header, _, first, second = ended.out.splitlines()
    for column, one, other in (
        ("order", ID, ID),
        ("customer", ORDER.customer_id, short.customer_id),
    ):
        assert header.index(column) == first.index(one) == second.rindex(other)


async def test_watch_ends_at_paid_unless_told_otherwise(served: Served) -> None:
    changes = [
        order_service_pb2.WatchOrderResponse(order=each) for each in (PENDING, ORDER, DECLINED)
    ]
    served.orders.will("WatchOrder", changes, changes)
    paid, final = await asyncio.gather(
        orderflow(served.target, "order", "watch", ID),
        orderflow(served.target, "order", "watch", ID, "--until-final"),
    )
    assert paid.code == final.code == 0
    assert [line.split()[1:] for line in paid.out.splitlines()] == [
        ["version", "1", "PENDING_PAYMENT"],
        ["version", "2", "PAID"],
    ]
    assert final.out.splitlines()[:2] == paid.out.splitlines()
    assert final.out.splitlines()[2].endswith("PAYMENT_DECLINED  no funds")


async def test_cancel_shows_the_order(served: Served) -> None:
    ended = await orderflow(served.target, "order", "cancel", ID, "--json")
    assert json.loads(ended.out) == {"id": ID, "state": "ORDER_STATE_CANCELLED"}


async def test_health_is_the_exit_code(served: Served) -> None:
    served.health.statuses["busy"] = health_pb2.HealthCheckResponse.NOT_SERVING
    well, busy = await asyncio.gather(
        orderflow(served.target, "health"), orderflow(served.target, "health", "busy")
    )
    assert (well.code, well.out) == (0, "SERVING\n")
    assert (busy.code, busy.out) == (4, "NOT_SERVING\n")


async def test_errors_are_one_line_and_the_rules_broken(served: Served) -> None:
    violations = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="order_id", description="not a UUID")
        ]
    )
    served.orders.will(
        "GetOrder",
        Refusal(
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request is invalid",
            [reason("INVALID_REQUEST"), violations],
            {"x-request-id": "r-1"},
        ),
    )
    ended = await orderflow(served.target, "order", "get", "one")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines() == [
        "error: INVALID_ARGUMENT (INVALID_REQUEST): the request is invalid",
        "  - order_id: not a UUID",
        "  request id r-1",
    ]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.NOT_FOUND, 3),
        (grpc.StatusCode.UNAVAILABLE, 4),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4),
        (grpc.StatusCode.PERMISSION_DENIED, 1),
    ],
)
async def test_exit_codes_say_what_happened(
    served: Served, code: grpc.StatusCode, exit_code: int
) -> None:
    stop = {"grpc-retry-pushback-ms": "-1"}
    served.orders.will("GetOrder", Refusal(code, "no", trailing=stop))
    ended = await orderflow(served.target, "order", "get", ID)
    assert (ended.code, ended.err) == (exit_code, f"error: {code.name}: no\n")


@pytest.mark.parametrize("wrong", ["a:b", "a:two:1", "a:1:1.5.5", "a:1:-1"])
def test_an_item_that_is_none_is_wrong_usage(wrong: str) -> None:
    ended = CliRunner().invoke(app, [*CREATE, "--payment-token", "tok", "--item", wrong])
    assert ended.exit_code == 2
    assert wrong in ended.stderr


async def test_ctrl_c_ends_it_quietly(served: Served) -> None:
    served.orders.will("WatchOrder", [order_service_pb2.WatchOrderResponse(order=PENDING), HANG])
    process = await start(served.target, "order", "watch", ID)
    assert process.stdout is not None
    assert await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")
    await served.orders.hung_up.wait()
