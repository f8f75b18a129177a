"""The audit finds every way in which orders and money can disagree, and nothing else."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest

from fakes.orders import NOW
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.audit import Audit, AuditedOrder, audit
from orderflow_server.payments.simulator.ledger import EntryKind, LedgerEntry

TEN = Money("EUR", 10)
PENDING, PAID, DECLINED, REFUNDING, CANCELLED = OrderState
FINDINGS = [field.name for field in dataclasses.fields(Audit)]


def an_order(state: OrderState, order_id: str = "a", total: Money = TEN) -> AuditedOrder:
    return AuditedOrder(order_id, state, total)


def charge(order_id: str = "a", amount: Money = TEN) -> LedgerEntry:
    return entry(EntryKind.CHARGE, order_id, amount)


def refund(order_id: str = "a", amount: Money = TEN) -> LedgerEntry:
    return entry(EntryKind.REFUND, order_id, amount)


def entry(kind: EntryKind, order_id: str, amount: Money) -> LedgerEntry:
    return LedgerEntry(
        kind=kind, key=f"order-{order_id}", reference=order_id, amount=amount, time=NOW
    )


def findings(found: Audit) -> dict[str, list[str]]:
    """Only what was found."""
    return {name: getattr(found, name) for name in FINDINGS if getattr(found, name)}


@pytest.mark.parametrize(
    ("state", "ledger"),
    [
        (PAID, [charge()]),
        (DECLINED, []),
        (CANCELLED, []),
        (CANCELLED, [charge(), refund()]),
    ],
)
def test_an_order_at_rest_with_its_money_in_order_is_clean(
    state: OrderState, ledger: list[LedgerEntry]
) -> None:
    found = audit(acknowledged=["a"], orders=[an_order(state)], ledger=ledger)
    assert findings(found) == {}
    assert found.clean


def test_nothing_at_all_is_clean() -> None:
    assert audit(acknowledged=[], orders=[], ledger=[]).clean


@pytest.mark.parametrize(
    ("state", "ledger", "finding"),
    [
        (PAID, [charge(), charge()], "double_charged"),
        (PAID, [], "unpaid"),
        (PAID, [charge(amount=Money("EUR", 9))], "unpaid"),
        (PAID, [charge(amount=Money("USD", 10))], "unpaid"),
        (PAID, [charge(amount=Money("EUR", 10, 1))], "unpaid"),
        (PAID, [charge(), refund()], "unpaid"),
        (DECLINED, [charge()], "overcharged"),
        (CANCELLED, [charge()], "overcharged"),
        (CANCELLED, [charge(), refund(amount=Money("EUR", 9))], "overcharged"),
        (CANCELLED, [charge(), refund(), refund()], "overcharged"),
        (CANCELLED, [refund()], "overcharged"),
        (PENDING, [], "unsettled"),
        (PENDING, [charge()], "unsettled"),
        (REFUNDING, [charge()], "unsettled"),
        (REFUNDING, [charge(), refund()], "unsettled"),
    ],
)
def test_what_does_not_add_up_is_found_under_one_name(
    state: OrderState, ledger: list[LedgerEntry], finding: str
) -> None:
    found = audit(acknowledged=["a"], orders=[an_order(state)], ledger=ledger)
    assert findings(found) == {finding: ["a"]}
    assert not found.clean


@pytest.mark.parametrize("state", [PENDING, REFUNDING])
def test_a_second_charge_is_found_before_the_order_rests(state: OrderState) -> None:
    found = audit(acknowledged=[], orders=[an_order(state)], ledger=[charge(), charge()])
    assert findings(found) == {"double_charged": ["a"], "unsettled": ["a"]}


def test_a_second_charge_that_was_not_given_back_is_both() -> None:
    ledger = [charge(), charge(), refund()]
    found = audit(acknowledged=[], orders=[an_order(CANCELLED)], ledger=ledger)
    assert findings(found) == {"double_charged": ["a"], "overcharged": ["a"]}


def test_an_acknowledged_order_that_is_not_there_is_lost() -> None:
    found = audit(acknowledged=["c", "a", "b"], orders=[an_order(DECLINED)], ledger=[])
    assert findings(found) == {"lost": ["b", "c"]}


def test_an_order_that_nobody_was_told_of_is_none_the_worse() -> None:
    assert audit(acknowledged=[], orders=[an_order(PAID)], ledger=[charge()]).clean


@pytest.mark.parametrize("stray", [charge("x"), refund("x")])
def test_money_of_an_order_that_does_not_exist_is_unknown(stray: LedgerEntry) -> None:
    ledger = [stray, charge()]
    found = audit(acknowledged=["a"], orders=[an_order(PAID)], ledger=ledger)
    assert findings(found) == {"unknown": ["x"]}


def test_a_lost_order_that_was_charged_is_lost_and_unknown() -> None:
    found = audit(acknowledged=["x"], orders=[], ledger=[charge("x")])
    assert findings(found) == {"lost": ["x"], "unknown": ["x"]}


def test_one_order_s_money_is_never_another_s() -> None:
    orders = [an_order(PAID, "a"), an_order(PAID, "b")]
    found = audit(acknowledged=["a", "b"], orders=orders, ledger=[charge("a"), charge("a")])
    assert findings(found) == {"double_charged": ["a"], "unpaid": ["b"]}


def test_each_finding_alone_is_not_clean() -> None:
    assert Audit().clean
    for count in (1, 2):
        for names in combinations(FINDINGS, count):
            assert not Audit(**{name: ["a"] for name in names}).clean
