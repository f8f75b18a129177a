"""Bad requests of every kind: a clear status that names the field, and nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from harness import Service, create_request, failure_of
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MAX_UNITS = 2**63 - 1


def price(currency_code: str = "EUR", units: int = 1, nanos: int = 0) -> Money:
    return Money(currency_code=currency_code, units=units, nanos=nanos)


def line(sku: str = "BOOK-1", quantity: int = 1, unit_price: Money | None = None) -> Any:
    return order_pb2.OrderItem(sku=sku, quantity=quantity, unit_price=unit_price or price())


def with_unknown_field(message: Any) -> bytes:
    """The message's bytes and a field 99 that no message of ours has."""
    return bytes(message.SerializeToString() + b"\x98\x06\x01")


def nested_unknown_field() -> bytes:
    """An item with a field 99 inside an otherwise good request."""
    item = with_unknown_field(line())
    request = create_request(items=[])
    return bytes(request.SerializeToString() + b"\x1a" + bytes([len(item)]) + item)


@dataclass(frozen=True)
class Bad:
    """A bad request and the fields that the answer must name."""

    name: str
    method: str
    body: Any
    fields: set[str]
    code: grpc.StatusCode = INVALID
    reason: str = "INVALID_REQUEST"


def create(name: str, fields: set[str], **changes: Any) -> Bad:
    return Bad(name, "CreateOrder", create_request(**changes), fields)


def listing(name: str, fields: set[str], **values: Any) -> Bad:
    return Bad(name, "ListOrders", pb.ListOrdersRequest(**values), fields)


BAD: list[Bad] = [
    create("no request_id", {"request_id"}, request_id=""),
    create("request_id is no UUID", {"request_id"}, request_id="order-1"),
    create("request_id is nearly a UUID", {"request_id"}, request_id=str(uuid4())[:-1]),
    create("request_id in braces", {"request_id"}, request_id="{" + str(uuid4()) + "}"),
    create("no customer", {"customer_id"}, customer_id=""),
    create("customer with a space", {"customer_id"}, customer_id="alice smith"),
    create("customer with a newline", {"customer_id"}, customer_id="alice\n"),
    create("customer with a NUL", {"customer_id"}, customer_id="al\0ice"),
    create("customer beyond ASCII", {"customer_id"}, customer_id="älice"),
    create("customer too long", {"customer_id"}, customer_id="a" * 65),
    create("no payment token", {"payment_token"}, payment_token=""),
    create("payment token with a space", {"payment_token"}, payment_token="tok visa"),
    create("payment token too long", {"payment_token"}, payment_token="t" * 256),
    create("no items", {"items"}, items=[]),
    create("101 items", {"items"}, items=[line()] * 101),
    create("10 000 items", {"items"}, items=[line()] * 10_000),
    create("half a million empty items", {"items"}, items=[order_pb2.OrderItem()] * 500_000),
    create("no sku", {"items[0].sku"}, items=[line(sku="")]),
    create("sku with SQL", {"items[0].sku"}, items=[line(sku="x'; DROP TABLE orders; --")]),
    create("sku too long", {"items[0].sku"}, items=[line(sku="S" * 65)]),
    create("zero quantity", {"items[0].quantity"}, items=[line(quantity=0)]),
    create("negative quantity", {"items[0].quantity"}, items=[line(quantity=-1)]),
    create("huge quantity", {"items[0].quantity"}, items=[line(quantity=1_000_001)]),
    create(
        "no price", {"items[0].unit_price"}, items=[order_pb2.OrderItem(sku="BOOK", quantity=1)]
    ),
    create("negative price", {"items[0].unit_price"}, items=[line(unit_price=price(units=-1))]),
    create("negative nanos", {"items[0].unit_price"}, items=[line(unit_price=price(nanos=-1))]),
    create(
        "nanos past a unit",
        {"items[0].unit_price"},
        items=[line(unit_price=price(nanos=1_000_000_000))],
    ),
    create(
        "no currency",
        {"items[0].unit_price"},
        items=[line(unit_price=price(currency_code=""))],
    ),
    create(
        "currency in small letters",
        {"items[0].unit_price"},
        items=[line(unit_price=price(currency_code="eur"))],
    ),
    create(
        "currency too long",
        {"items[0].unit_price"},
        items=[line(unit_price=price(currency_code="EURO"))],
    ),
    create(
        "mixed currencies",
        {"items[1].unit_price.currency_code"},
        items=[line(), line(unit_price=price(currency_code="USD"))],
    ),
    create(
        "a total beyond 64 bits",
        {"items"},
        items=[line(quantity=2, unit_price=price(units=MAX_UNITS))],
    ),
    create(
        "a sum beyond 64 bits",
        {"items"},
        items=[line(unit_price=price(units=MAX_UNITS)), line()],
    ),
    create(
        "several faults at once",
        {"request_id", "customer_id", "items[1].quantity"},
        request_id="",
        customer_id="",
        items=[line(), line(quantity=0)],
    ),
    Bad("an unknown field", "CreateOrder", with_unknown_field(create_request()), {""}),
    Bad("an unknown field in an item", "CreateOrder", nested_unknown_field(), {"items[0]"}),
    Bad("garbage", "CreateOrder", b"\xff" * 64, {""}, reason="MALFORMED_REQUEST"),
    Bad(
        "a truncated message",
        "CreateOrder",
        create_request().SerializeToString()[:-3],
        {""},
        reason="MALFORMED_REQUEST",
    ),
    Bad("JSON", "CreateOrder", b'{"customer_id": "alice"}', {""}, reason="MALFORMED_REQUEST"),
    Bad("an empty message", "CreateOrder", b"", {"request_id", "customer_id", "items"}),
    Bad(
        "invalid UTF-8 in a string",
        "CreateOrder",
        b"\x12\x02\xc3\x28",
        {""},
        reason="MALFORMED_REQUEST",
    ),
    Bad("no order id", "GetOrder", pb.GetOrderRequest(), {"order_id"}),
    Bad("order id is no UUID", "GetOrder", pb.GetOrderRequest(order_id="42"), {"order_id"}),
    Bad("garbage to Get", "GetOrder", b"\xff", {""}, reason="MALFORMED_REQUEST"),
    Bad("cancel no UUID", "CancelOrder", pb.CancelOrderRequest(order_id="x"), {"order_id"}),
    Bad("watch no UUID", "WatchOrder", pb.WatchOrderRequest(order_id="x"), {"order_id"}),
    Bad("garbage to Watch", "WatchOrder", b"\xff", {""}, reason="MALFORMED_REQUEST"),
    listing("negative page size", {"page_size"}, page_size=-1),
    listing("huge page size", {"page_size"}, page_size=1001),
    listing("a page token that is none", {"page_token"}, page_token="next"),
    listing("a page token beyond ASCII", {"page_token"}, page_token="é"),
    listing("a page token too long", {"page_token"}, page_token="A" * 257),
    listing("state UNSPECIFIED", {"states[0]"}, states=[0]),
    listing("a state that is none", {"states[0]"}, states=[99]),
    listing("a state twice", {"states"}, states=[1, 1]),
    listing("a customer filter with a space", {"customer_id"}, customer_id="a b"),
    listing(
        "a time past the year 9999",
        {"created_after"},
        created_after=Timestamp(seconds=253402300800),
    ),
    listing(
        "a time before the year 1",
        {"created_before"},
        created_before=Timestamp(seconds=-62135596801),
    ),
    listing("a time with bad nanos", {"created_after"}, created_after=Timestamp(nanos=-1)),
]


def raw_method(service: Service, method: str) -> Any:
    """A method that sends bytes as they are, as a broken or hostile client might."""
    path = f"/orderflow.v1.OrderService/{method}"
    if method == "WatchOrder":
        call: Any = service.channel.unary_stream(path)
        return lambda body: call(body).read()
    unary: Any = service.channel.unary_unary(path)
    return unary


def test_there_are_at_least_30_kinds() -> None:
    names = [bad.name for bad in BAD]
    assert len(names) == len(set(names)) >= 30


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
async def test_is_refused_by_name_and_writes_nothing(service: Service, bad: Bad) -> None:
    body = bad.body if isinstance(bad.body, bytes) else bad.body.SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_method(service, bad.method)(body)
    failure = failure_of(caught.value)
    assert failure.code is bad.code
    assert failure.reason == bad.reason
    assert failure.domain == "orderflow"
    assert bad.fields <= failure.fields
    assert all(description for _, description in failure.violations)
    assert await service.orders() == []
    assert list(service.simulator.ledger.entries()) == []


async def test_an_oversize_message_is_refused_before_it_is_parsed(service: Service) -> None:
    body = create_request().SerializeToString() + b"\x12\x80\x80\x80\x01" + b"a" * (2 * 1024 * 1024)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_method(service, "CreateOrder")(body)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (caught.value.details() or "")
    assert await service.orders() == []


async def test_an_unknown_method_is_unimplemented(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw_method(service, "DeleteEverything")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_refused_request_is_not_remembered(service: Service) -> None:
    request = create_request(customer_id="not valid")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.stub.CreateOrder(request)
    request.customer_id = "alice"
    assert (await service.stub.CreateOrder(request)).order.customer_id == "alice"


async def test_the_largest_orders_that_are_allowed_are_accepted(service: Service) -> None:
    largest_price = line(unit_price=price(units=MAX_UNITS, nanos=999_999_999))
    for items in ([line(sku="S" * 64)] * 100, [largest_price], [line(quantity=1_000_000)]):
        order = (await service.stub.CreateOrder(create_request(items=items))).order
        assert list((await service.client.get_order(order.id)).items) == items
