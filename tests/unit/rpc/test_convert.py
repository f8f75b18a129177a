"""Messages and domain objects: everything gets across, but for the payment token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage
from hypothesis import given
from hypothesis import strategies as st

from fakes.orders import ITEMS, NOW, new_order, order_id, request_id
from fakes.process import draft
from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.orders.money import MAX_UNITS, NANOS_PER_UNIT, Money
from orderflow_server.orders.order import Order, OrderItem, OrderState
from orderflow_server.rpc import convert, page_token
from orderflow_server.rpc.status import InvalidRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_S, LAST_S = -62_135_596_800, 253_402_300_799
"""The seconds of the years 1 to 9999."""

moneys = st.builds(
    Money,
    st.sampled_from(["EUR", "JPY"]),
    st.integers(0, MAX_UNITS),
    st.integers(0, NANOS_PER_UNIT - 1),
)


# --- orders ----------------------------------------------------------------------------


def test_a_request_becomes_a_draft_field_by_field() -> None:
    request = pb.CreateOrderRequest(
        request_id=str(request_id(1)),
        customer_id="ada",
        payment_token="tok_visa",
        items=[
            order_pb2.OrderItem(
                sku=item.sku,
                quantity=item.quantity,
                unit_price=MoneyMessage(
                    currency_code=item.unit_price.currency_code,
                    units=item.unit_price.units,
                    nanos=item.unit_price.nanos,
                ),
            )
            for item in ITEMS
        ],
    )
    assert convert.draft_from(request) == draft(1, customer_id="ada", payment_token="tok_visa")


def test_each_price_that_is_none_is_named() -> None:
    prices = [
        MoneyMessage(currency_code="EUR", units=1),
        MoneyMessage(currency_code="eur", units=1),
        MoneyMessage(currency_code="EUR", units=-1),
        MoneyMessage(currency_code="EUR", nanos=-1),
        MoneyMessage(currency_code="EUR", nanos=1_000_000_000),
    ]
    items = [order_pb2.OrderItem(sku="tea", quantity=1, unit_price=price) for price in prices]
    request = pb.CreateOrderRequest(request_id=str(request_id(1)), items=items)
    with pytest.raises(InvalidRequest) as refused:
        convert.draft_from(request)
    assert [(violation.field, violation.description) for violation in refused.value.violations] == [
        ("items[1].unit_price", "currency_code must be three capital letters (ISO 4217)"),
        ("items[2].unit_price", "units must not be negative"),
        ("items[3].unit_price", "nanos must be between 0 and 999999999"),
        ("items[4].unit_price", "nanos must be between 0 and 999999999"),
    ]


def test_a_request_id_is_the_same_in_capital_letters() -> None:
    spelled = str(UUID(int=0xABCDEF << 80 | 0x4 << 76 | 0x2 << 62))
    upper, lower = (
        convert.draft_from(pb.CreateOrderRequest(request_id=text))
        for text in (spelled.upper(), spelled)
    )
    assert upper == lower


def message_of(order: Order) -> order_pb2.Order:
    message = order_pb2.Order()
    convert.write_order(message, order)
    return message


def test_an_order_becomes_a_message_field_by_field() -> None:
    later = NOW + timedelta(seconds=1)
    order = new_order().declined("no funds", later)
    message = message_of(order)

    assert message.id == str(order.id)
    assert message.customer_id == order.customer_id
    assert message.state == order_pb2.ORDER_STATE_PAYMENT_DECLINED
    assert [(item.sku, item.quantity) for item in message.items] == [
        (item.sku, item.quantity) for item in ITEMS
    ]
    assert message.items[0].unit_price == MoneyMessage(
        currency_code="EUR", units=4, nanos=500_000_000
    )
    assert message.total == MoneyMessage(currency_code="EUR", units=83, nanos=500_000_000)
    assert message.version == 2
    assert message.create_time.ToDatetime(tzinfo=UTC) == NOW
    assert message.update_time.ToDatetime(tzinfo=UTC) == later
    assert message.decline_reason == "no funds"
    assert message.request_id == str(order.request_id)


def test_every_field_of_an_order_is_filled_in() -> None:
    """A field that the contract gains must not be forgotten here."""
    message = message_of(new_order().declined("no funds", NOW))
    assert [field.name for field in message.DESCRIPTOR.fields] == [
        field.name for field, _ in message.ListFields()
    ]


def test_the_payment_token_is_in_no_message() -> None:
    order = Order.place(
        draft(payment_token="tok_secret"),
        order_id=order_id(1),
        now=NOW,
    )
    assert b"tok_secret" not in message_of(order).SerializeToString()


@pytest.mark.parametrize("state", OrderState)
def test_every_state_has_a_name_in_the_contract(state: OrderState) -> None:
    query = convert.query_from(
        pb.ListOrdersRequest(states=[order_pb2.OrderState.Value(f"ORDER_STATE_{state}")])
    )
    assert query.states == (state,)


def test_the_contract_has_no_state_that_the_domain_has_not() -> None:
    names = {name.removeprefix("ORDER_STATE_") for name in order_pb2.OrderState.keys()}  # noqa: SIM118  not a mapping
    assert names - {state.value for state in OrderState} == {"UNSPECIFIED"}


@given(moneys, st.integers(1, 1_000_000))
def test_money_survives_the_way_there_and_back(price: Money, quantity: int) -> None:
    small = OrderItem("sku", quantity, Money(price.currency_code, price.units >> 21, price.nanos))
    order = new_order(items=(small,))
    message = message_of(order)
    request = pb.CreateOrderRequest(request_id=message.request_id, items=message.items)
    assert convert.draft_from(request).items == order.items
    assert (message.total.units, message.total.nanos) == (order.total.units, order.total.nanos)


# --- lists -----------------------------------------------------------------------------


def test_an_empty_request_asks_for_the_newest_of_everybody() -> None:
    query = convert.query_from(pb.ListOrdersRequest())
    assert query.limit == convert.DEFAULT_PAGE_SIZE
    assert query.before is None
    assert query.customer_id is None
    assert query.states == ()
    assert (query.created_after, query.created_before) == (None, None)


def test_every_filter_gets_across() -> None:
    request = pb.ListOrdersRequest(
        page_size=7,
        customer_id="ada",
        states=[order_pb2.ORDER_STATE_REFUNDING, order_pb2.ORDER_STATE_PAID],
        created_after=Timestamp(seconds=1, nanos=2_000),
        created_before=Timestamp(seconds=3, nanos=4_000),
    )
    request.page_token = page_token.encode(order_id(5), request)
    query = convert.query_from(request)

    assert (query.limit, query.before, query.customer_id) == (7, order_id(5), "ada")
    assert query.states == (OrderState.REFUNDING, OrderState.PAID)
    assert query.created_after == EPOCH + timedelta(seconds=1, microseconds=2)
    assert query.created_before == EPOCH + timedelta(seconds=3, microseconds=4)


def test_a_token_of_another_query_is_refused() -> None:
    request = pb.ListOrdersRequest(customer_id="ada")
    request.page_token = page_token.encode(order_id(5), request)
    request.customer_id = "bob"
    with pytest.raises(InvalidRequest):
        convert.query_from(request)


def test_the_epoch_is_a_time_like_any_other() -> None:
    query = convert.query_from(pb.ListOrdersRequest(created_after=Timestamp()))
    assert query.created_after == EPOCH


@given(
    st.integers(FIRST_S, LAST_S - 1) | st.integers(-2, 2),
    st.integers(0, 999_999_999) | st.sampled_from([0, 1, 999, 1000, 999_999_999]),
    st.integers(-2, 2),
)
def test_a_bound_between_two_microseconds_is_kept_exactly(
    seconds: int, nanos: int, offset: int
) -> None:
    """An order's time has microseconds, a bound may have nanoseconds."""
    bound = Timestamp(seconds=seconds, nanos=nanos)
    query = convert.query_from(pb.ListOrdersRequest(created_after=bound, created_before=bound))
    assert query.created_after is not None
    assert query.created_before is not None

    micros = (query.created_after - EPOCH) // timedelta(microseconds=1) + offset
    at_or_after = micros * 1000 >= seconds * NANOS_PER_UNIT + nanos
    if micros >= FIRST_S * 1_000_000:
        create_time = EPOCH + timedelta(microseconds=micros)
        assert (create_time >= query.created_after) == at_or_after
        assert (create_time < query.created_before) == (not at_or_after)


def test_the_ends_of_time_are_times() -> None:
    query = convert.query_from(
        pb.ListOrdersRequest(
            created_after=Timestamp(seconds=FIRST_S),
            created_before=Timestamp(seconds=LAST_S, nanos=999_999_999),
        )
    )
    assert query.created_after == datetime.min.replace(tzinfo=UTC)
    assert query.created_before == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("field", ["created_after", "created_before"])
@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=FIRST_S - 1),
        Timestamp(seconds=LAST_S + 1),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(nanos=2**31 - 1),
    ],
    ids=str,
)
def test_a_time_that_is_none_is_refused_by_name(field: str, time: Timestamp) -> None:
    request = pb.ListOrdersRequest()
    getattr(request, field).CopyFrom(time)
    with pytest.raises(InvalidRequest) as caught:
        convert.query_from(request)
    assert [violation.field for violation in caught.value.violations] == [field]
