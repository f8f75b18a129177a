"""Validation: the contract's rules by field, and no field that the contract does not have."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from fakes.orders import NOW, order_id, request_id
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.orders.errors import InvalidOrder
from orderflow_server.orders.order import Order
from orderflow_server.rpc.convert import draft_from
from orderflow_server.rpc.server import ORDER_DESCRIPTOR
from orderflow_server.rpc.status import InvalidRequest, Violation
from orderflow_server.rpc.validation import MAX_VIOLATIONS, RequestValidator

VALIDATOR = RequestValidator(ORDER_DESCRIPTOR)
UNKNOWN = b"\x98\x06\x01"
"""A field with number 99, which no message of ours has."""


def create_request() -> pb.CreateOrderRequest:
    return pb.CreateOrderRequest(
        request_id=str(request_id(1)),
        customer_id="ada",
        payment_token="tok_visa",
        items=[
            order_pb2.OrderItem(sku=sku, quantity=1, unit_price=Money(currency_code="EUR", units=1))
            for sku in ("tea", "pot", "cup")
        ],
    )


def list_request() -> pb.ListOrdersRequest:
    return pb.ListOrdersRequest(
        states=[order_pb2.ORDER_STATE_PAID],
        created_after=Timestamp(seconds=1),
        created_before=Timestamp(seconds=2),
    )


def violations(request: Message) -> Sequence[Violation]:
    try:
        VALIDATOR.check(request)
    except InvalidRequest as error:
        return error.violations
    return []


def fields(request: Message) -> list[str]:
    return [violation.field for violation in violations(request)]


@pytest.mark.parametrize(
    "request_",
    [
        create_request(),
        list_request(),
        pb.ListOrdersRequest(),
        pb.GetOrderRequest(order_id=str(order_id(1))),
        pb.CancelOrderRequest(order_id=str(order_id(1))),
        pb.WatchOrderRequest(order_id=str(order_id(1))),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_good_request_passes(request_: Message) -> None:
    assert violations(request_) == []


def test_warming_up_is_done_for_every_method() -> None:
    validator = RequestValidator(ORDER_DESCRIPTOR)
    validator.warm_up()
    validator.check(create_request())


# --- the rules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("break_", "field"),
    [
        (lambda r: r.ClearField("request_id"), "request_id"),
        (lambda r: setattr(r, "request_id", "order-1"), "request_id"),
        (lambda r: setattr(r, "customer_id", "a b"), "customer_id"),
        (lambda r: setattr(r, "customer_id", "ada\n"), "customer_id"),
        (lambda r: r.ClearField("payment_token"), "payment_token"),
        (lambda r: r.ClearField("items"), "items"),
        (lambda r: setattr(r.items[2], "quantity", 0), "items[2].quantity"),
        (lambda r: setattr(r.items[1], "sku", "a/b"), "items[1].sku"),
        (lambda r: r.items[1].ClearField("unit_price"), "items[1].unit_price"),
    ],
)
def test_a_broken_rule_is_named_with_the_path_of_its_field(
    break_: Callable[[Any], object], field: str
) -> None:
    request = create_request()
    break_(request)
    assert field in fields(request)


def test_every_broken_rule_is_named_at_once() -> None:
    request = create_request()
    request.customer_id = ""
    request.items[0].sku = ""
    request.items[2].quantity = -1
    assert sorted(fields(request)) == ["customer_id", "items[0].sku", "items[2].quantity"]


@pytest.mark.parametrize("states", [[0], [99], [2, 2]])
def test_a_filter_for_a_state_that_is_none_is_refused(states: list[Any]) -> None:
    (field,) = fields(pb.ListOrdersRequest(states=states))
    assert field in ("states", "states[0]")


def test_a_list_that_is_too_long_is_refused_before_its_elements_are_looked_at() -> None:
    bad = order_pb2.OrderItem()
    (violation,) = violations(pb.CreateOrderRequest(items=[bad] * 101))
    assert violation.field == "items"
    assert "100" in violation.description
    (violation,) = violations(pb.ListOrdersRequest(states=[order_pb2.ORDER_STATE_PAID] * 6))
    assert violation.field == "states"


def test_a_long_list_of_violations_is_cut() -> None:
    request = create_request()
    del request.items[:]
    for _ in range(100):
        request.items.add().MergeFromString(UNKNOWN)
    assert len(violations(request)) == MAX_VIOLATIONS


# --- what passes is safe to convert ----------------------------------------------------


@given(
    st.builds(
        pb.CreateOrderRequest,
        request_id=st.uuids().map(str) | st.text(max_size=40),
        customer_id=st.text("ab@ \n", max_size=3),
        payment_token=st.text("t! \n", max_size=3),
        items=st.lists(
            st.builds(
                order_pb2.OrderItem,
                sku=st.text("s-\n", max_size=3),
                quantity=st.integers(-1, 3) | st.just(1_000_000),
                unit_price=st.none()
                | st.builds(
                    Money,
                    currency_code=st.sampled_from(["EUR", "EUR", "USD", "eur", "EUR\n", "", "ÄÖÜ"]),
                    units=st.integers(-1, 2) | st.just(2**63 - 1),
                    nanos=st.sampled_from([-1, 0, 1, 999_999_999, 1_000_000_000, 2**31 - 1]),
                ),
            ),
            max_size=3,
        ),
    )
)
def test_what_passes_becomes_an_order_or_is_refused_by_the_domain(
    request: pb.CreateOrderRequest,
) -> None:
    """Never an error that the table of statuses does not know."""
    if violations(request):
        return
    # Prices are left to the conversion, mixed currencies and the size of the total to the domain.
    with contextlib.suppress(InvalidRequest, InvalidOrder):
        Order.place(draft_from(request), order_id=order_id(1), now=NOW)


# --- unknown fields --------------------------------------------------------------------


def with_unknown_field(message: Message) -> None:
    message.MergeFromString(UNKNOWN)


@pytest.mark.parametrize(
    ("make", "into", "path"),
    [
        (create_request, lambda r: r, ""),
        (create_request, lambda r: r.items[0], "items[0]"),
        (create_request, lambda r: r.items[2], "items[2]"),
        (create_request, lambda r: r.items[1].unit_price, "items[1].unit_price"),
        (list_request, lambda r: r, ""),
        (list_request, lambda r: r.created_after, "created_after"),
        (list_request, lambda r: r.created_before, "created_before"),
    ],
)
def test_an_unknown_field_is_refused_and_named_wherever_it_is(
    make: Callable[[], Any], into: Callable[[Any], Message], path: str
) -> None:
    request = make()
    holder = into(request)
    with_unknown_field(holder)
    (violation,) = violations(request)
    assert violation.field == path
    assert holder.DESCRIPTOR.full_name in violation.description
    assert "99" in violation.description


def test_several_unknown_fields_are_each_named() -> None:
    request = create_request()
    for holder in (request, request.items[0], request.items[2].unit_price):
        with_unknown_field(holder)
    request.MergeFromString(b"\x90\x06\x01")  # Number 98.
    found = violations(request)
    assert sorted(violation.field for violation in found) == [
        "",
        "",
        "items[0]",
        "items[2].unit_price",
    ]
    assert {"98", "99"} <= {violation.description.split()[-1] for violation in found}


def test_unknown_fields_are_named_beside_broken_rules() -> None:
    request = create_request()
    request.customer_id = ""
    with_unknown_field(request.items[1])
    assert sorted(fields(request)) == ["customer_id", "items[1]"]


@pytest.mark.parametrize(
    "unknown",
    [
        b"\x9a\x06\x03abc",
        b"\x9d\x06\x00\x00\x00\x00",
        b"\x99\x06\x00\x00\x00\x00\x00\x00\x00\x00",
        b"\x9b\x06\x9c\x06",
        b"\x98\x06\x00",
    ],
    ids=["bytes", "fixed32", "fixed64", "group", "zero"],
)
def test_an_unknown_field_of_any_type_is_refused(unknown: bytes) -> None:
    request = create_request()
    request.MergeFromString(unknown)
    assert fields(request) == [""]


def test_checking_changes_nothing() -> None:
    request = create_request()
    with_unknown_field(request.items[0])
    before = request.SerializeToString(deterministic=True)
    violations(request)
    assert request.SerializeToString(deterministic=True) == before
