"""The order: what it costs, what may follow what, and what makes two drafts the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs
from rich.pretty import pretty_repr

from fakes.orders import ITEMS, NOW, new_order, order_id
from fakes.process import draft
from orderflow_server.orders.errors import IllegalTransition, InvalidOrder
from orderflow_server.orders.money import MAX_UNITS, NANOS_PER_UNIT, Money
from orderflow_server.orders.order import (
    TRANSITIONS,
    Order,
    OrderChange,
    OrderDraft,
    OrderItem,
    OrderState,
)

# --- strategies ------------------------------------------------------------------------

# Few letters and short words, so that fields often look like each other's neighbours.
words = st.text("abé1 ", min_size=1, max_size=3)
prices = st.builds(
    Money,
    st.just("EUR"),
    st.integers(0, 20) | st.integers(0, MAX_UNITS // 10_000),
    st.integers(0, 20) | st.integers(0, NANOS_PER_UNIT - 1),
)
items = st.builds(OrderItem, words, st.integers(1, 30), prices)
drafts = st.builds(
    OrderDraft, st.uuids(), words, st.lists(items, min_size=1, max_size=4).map(tuple), words
)
states = st.sampled_from(OrderState)
times = st.integers(-1000, 1000).map(lambda seconds: NOW + timedelta(seconds=seconds))


def place(draft: OrderDraft) -> Order:
    return Order.place(draft, order_id=order_id(1), now=NOW)


def become(order: Order, state: OrderState, now: datetime) -> Order:
    """Asks the order to change, through its public methods."""
    steps: dict[OrderState, Callable[[], Order]] = {
        OrderState.PAID: lambda: order.paid(now),
        OrderState.PAYMENT_DECLINED: lambda: order.declined("no funds", now),
        OrderState.REFUNDING: lambda: order.refunding(now),
        OrderState.CANCELLED: lambda: order.cancelled(now),
    }
    return steps[state]()


def change_to(order: Order) -> OrderChange:
    return OrderChange(
        order_id=order.id,
        version=order.version,
        state=order.state,
        decline_reason=order.decline_reason,
        time=order.update_time,
    )


# --- placing ---------------------------------------------------------------------------


@given(drafts)
def test_a_new_order_is_its_draft_at_version_1(draft: OrderDraft) -> None:
    order = place(draft)

    assert (order.id, order.request_id) == (order_id(1), draft.request_id)
    assert (order.customer_id, order.items) == (draft.customer_id, draft.items)
    assert order.payment_token == draft.payment_token
    assert (order.state, order.version) == (OrderState.PENDING_PAYMENT, 1)
    assert order.decline_reason == ""
    assert order.create_time == order.update_time == NOW


@given(drafts)
def test_the_total_is_the_exact_sum_of_the_lines(draft: OrderDraft) -> None:
    def exactly(money: Money) -> Fraction:
        return money.units + Fraction(money.nanos, NANOS_PER_UNIT)

    truth = sum((item.quantity * exactly(item.unit_price) for item in draft.items), Fraction(0))
    assert exactly(place(draft).total) == truth


def test_a_total_beyond_the_largest_amount_is_refused() -> None:
    half = OrderItem("sku", 1, Money("EUR", MAX_UNITS // 2 + 1))
    with pytest.raises(InvalidOrder) as caught:
        place(draft(items=(half, half)))
    assert caught.value.field == "items"


def test_an_order_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidOrder) as caught:
        place(draft(items=()))
    assert caught.value.field == "items"


@pytest.mark.parametrize("quantity", [0, -1])
def test_a_quantity_below_1_is_refused_by_name(quantity: int) -> None:
    bad = structs.replace(ITEMS[1], quantity=quantity)
    with pytest.raises(InvalidOrder) as caught:
        place(draft(items=(ITEMS[0], bad, ITEMS[2])))
    assert caught.value.field == "items[1].quantity"


def test_a_second_currency_is_refused_by_name() -> None:
    bad = structs.replace(ITEMS[2], unit_price=Money("USD", 1))
    with pytest.raises(InvalidOrder) as caught:
        place(draft(items=(*ITEMS[:2], bad)))
    assert caught.value.field == "items[2].unit_price.currency_code"
    assert "EUR" in caught.value.description


# --- the state machine -----------------------------------------------------------------


@given(st.lists(st.tuples(states, times), max_size=12))
def test_any_sequence_of_changes_keeps_to_the_table(
    wanted: list[tuple[OrderState, datetime]],
) -> None:
    order = new_order()
    for state, now in wanted:
        if state is OrderState.PENDING_PAYMENT:
            continue  # Nothing asks for it: an order is born so.
        before, before_fields = order, structs.asdict(order)
        if state in TRANSITIONS[before.state]:
            order = become(before, state, now)
            assert (order.state, order.version) == (state, before.version + 1)
            assert order.update_time == max(now, before.update_time)
            assert (order.decline_reason != "") == (state is OrderState.PAYMENT_DECLINED)
            assert (
                structs.replace(
                    order,
                    state=before.state,
                    version=before.version,
                    decline_reason=before.decline_reason,
                    update_time=before.update_time,
                )
                == before
            ), "all the rest stays"
        else:
            with pytest.raises(IllegalTransition) as caught:
                become(before, state, now)
            assert (caught.value.order_id, caught.value.state) == (before.id, before.state)
            assert caught.value.wanted is state
        assert structs.asdict(before) == before_fields, "an order never changes itself"


def test_the_table_is_the_contract_s() -> None:
    pending, paid, declined, refunding, cancelled = OrderState
    assert {
        pending: {paid, declined, cancelled},
        paid: {refunding},
        declined: set(),
        refunding: {cancelled},
        cancelled: set(),
    } == TRANSITIONS
    assert {state for state in OrderState if state.is_final} == {declined, cancelled}
    assert {state for state in OrderState if state.awaits_gateway} == {pending, refunding}


def test_a_clock_set_back_makes_no_order_younger() -> None:
    paid = new_order().paid(NOW + timedelta(seconds=5))
    refunding = paid.refunding(NOW - timedelta(days=1))
    assert refunding.update_time == paid.update_time
    assert refunding.cancelled(NOW + timedelta(seconds=6)).update_time == NOW + timedelta(seconds=6)


@given(st.lists(st.tuples(states, times), max_size=12), st.data())
def test_every_version_is_rebuilt_from_any_other_and_its_change(
    wanted: list[tuple[OrderState, datetime]], data: st.DataObject
) -> None:
    versions = [new_order()]
    for state, now in wanted:
        if state in TRANSITIONS[versions[-1].state]:
            versions.append(become(versions[-1], state, now))
    start, goal = data.draw(st.sampled_from(versions)), data.draw(st.sampled_from(versions))
    assert start.at(change_to(goal)) == goal


# --- the content hash ------------------------------------------------------------------


@given(drafts, st.uuids(), st.uuids())
def test_equal_content_is_equal_whatever_the_request_id(
    draft: OrderDraft, other_request: UUID, other_order: UUID
) -> None:
    again = structs.replace(draft, request_id=other_request)
    order = Order.place(again, order_id=other_order, now=NOW + timedelta(days=1))
    assert order.content_hash == place(draft).content_hash


@given(drafts, drafts)
def test_other_content_is_never_equal(one: OrderDraft, other: OrderDraft) -> None:
    assume(structs.replace(one, request_id=other.request_id) != other)
    assert place(one).content_hash != place(other).content_hash


def changed_item(**changes: object) -> tuple[OrderItem, ...]:
    return (ITEMS[0], structs.replace(ITEMS[1], **changes), ITEMS[2])


@pytest.mark.parametrize(
    "other",
    [
        draft(customer_id="bob"),
        draft(payment_token="tok_amex"),
        draft(items=changed_item(sku="pots")),
        draft(items=changed_item(quantity=2)),
        draft(items=changed_item(unit_price=Money("EUR", 32))),
        draft(items=changed_item(unit_price=Money("EUR", 31, 1))),
        draft(items=tuple(structs.replace(i, unit_price=Money("USD", 1)) for i in ITEMS)),
        draft(items=ITEMS[:2]),
        draft(items=(*ITEMS, ITEMS[2])),
        draft(items=ITEMS[::-1]),
    ],
    ids=[
        "customer_id",
        "payment_token",
        "sku",
        "quantity",
        "units",
        "nanos",
        "currency",
        "an item less",
        "an item twice",
        "the order of the items",
    ],
)
def test_any_changed_field_changes_the_hash(other: OrderDraft) -> None:
    assert place(other).content_hash != place(draft()).content_hash


def priced(sku: str, quantity: int, currency: str, units: int, nanos: int) -> OrderItem:
    return OrderItem(sku, quantity, Money(currency, units, nanos))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            draft(customer_id="ab", payment_token="c"),
            draft(customer_id="a", payment_token="bc"),
        ),
        (
            draft(payment_token="tok", items=(priced("sku", 1, "EUR", 1, 0),)),
            draft(payment_token="toks", items=(priced("ku", 1, "EUR", 1, 0),)),
        ),
        (
            draft(items=(priced("a", 1, "EUR", 1, 0),)),
            draft(items=(priced("aEUR", 1, "EUR", 1, 0),)),
        ),
        (
            draft(items=(priced("a", 1, "EUR", 11, 0),)),
            draft(items=(priced("a", 11, "EUR", 1, 0),)),
        ),
        (
            draft(items=(priced("a", 1, "EUR", 1, 11),)),
            draft(items=(priced("a", 1, "EUR", 11, 1),)),
        ),
    ],
)
def test_a_letter_moved_across_a_field_s_border_changes_the_hash(
    one: OrderDraft, other: OrderDraft
) -> None:
    assert place(one).content_hash != place(other).content_hash


# --- secrets ---------------------------------------------------------------------------


@given(st.text("xyz", min_size=8))
def test_the_payment_token_is_in_no_repr(token: str) -> None:
    secret = draft(payment_token=token)
    order = place(secret)
    texts = [repr(secret), str(secret), repr(order), str(order), repr(order.paid(NOW))]
    texts += [pretty_repr(secret), pretty_repr(order)]
    assert not [text for text in texts if token in text or "content_hash" in text]
    assert all("customer_id" in text for text in texts)


def test_a_payment_key_belongs_to_one_order_at_every_version() -> None:
    order = new_order(1)
    assert order.paid(NOW).refunding(NOW).payment_key == order.payment_key
    assert new_order(2, request=1).payment_key != order.payment_key
    assert str(order.id) in order.payment_key
