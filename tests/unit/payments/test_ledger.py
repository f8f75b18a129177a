"""The simulated gateway's books: at most one payment under a key, whatever is asked when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orderflow_server.orders.money import Money
from orderflow_server.orders.ports import PaymentState
from orderflow_server.payments.simulator.ledger import (
    EntryKind,
    IdempotencyKeyReused,
    Ledger,
    PaymentNotCharged,
    PaymentNotFound,
)

START = datetime(2025, 1, 1, tzinfo=UTC)
TEN = Money("EUR", 10)
ELEVEN = Money("EUR", 11)


@pytest.fixture
def ledger() -> Ledger:
    seconds = count()
    return Ledger(lambda: START + timedelta(seconds=next(seconds)))


def kinds(ledger: Ledger) -> list[EntryKind]:
    return [entry.kind for entry in ledger.entries()]


def test_a_charge_moves_the_money_and_says_when(ledger: Ledger) -> None:
    payment = ledger.charge("k", reference="r", amount=TEN)

    assert payment.state is PaymentState.CHARGED
    (entry,) = ledger.entries()
    assert (entry.kind, entry.key, entry.reference) == (EntryKind.CHARGE, "k", "r")
    assert (entry.amount, entry.time) == (TEN, START)
    assert payment.create_time == entry.time


def test_a_repeated_charge_returns_the_payment_and_moves_nothing(ledger: Ledger) -> None:
    first = ledger.charge("k", reference="r", amount=TEN)

    assert ledger.charge("k", reference="r", amount=TEN) is first
    assert kinds(ledger) == [EntryKind.CHARGE]


@pytest.mark.parametrize(("reference", "amount"), [("r", ELEVEN), ("other", TEN)])
def test_a_key_belongs_to_one_amount_and_reference(
    ledger: Ledger, reference: str, amount: Money
) -> None:
    ledger.charge("k", reference="r", amount=TEN)

    with pytest.raises(IdempotencyKeyReused):
        ledger.charge("k", reference=reference, amount=amount)
    assert kinds(ledger) == [EntryKind.CHARGE]


def test_a_decline_is_final_and_moves_nothing(ledger: Ledger) -> None:
    ledger.charge("k", reference="r", amount=TEN, decline_reason="no money")
    repeated = ledger.charge("k", reference="r", amount=TEN)

    assert (repeated.state, repeated.decline_reason) == (PaymentState.DECLINED, "no money")
    assert kinds(ledger) == []
    with pytest.raises(PaymentNotCharged):
        ledger.refund("k")


def test_a_refund_happens_once(ledger: Ledger) -> None:
    ledger.charge("k", reference="r", amount=TEN)

    assert ledger.refund("k").state is PaymentState.REFUNDED
    assert ledger.refund("k").state is PaymentState.REFUNDED
    assert ledger.charge("k", reference="r", amount=TEN).state is PaymentState.REFUNDED
    assert kinds(ledger) == [EntryKind.CHARGE, EntryKind.REFUND]
    assert [entry.amount for entry in ledger.entries()] == [TEN, TEN]


def test_a_refund_needs_a_payment(ledger: Ledger) -> None:
    with pytest.raises(PaymentNotFound):
        ledger.refund("k")


def test_a_void_fences_the_key_against_later_charges(ledger: Ledger) -> None:
    assert ledger.void("k", reference="r").state is PaymentState.VOIDED

    assert ledger.charge("k", reference="r", amount=TEN).state is PaymentState.VOIDED
    assert kinds(ledger) == []
    with pytest.raises(PaymentNotCharged):
        ledger.refund("k")


def test_a_void_that_comes_too_late_changes_nothing(ledger: Ledger) -> None:
    ledger.charge("k", reference="r", amount=TEN)

    assert ledger.void("k", reference="r").state is PaymentState.CHARGED
    assert ledger.get("k").state is PaymentState.CHARGED
    assert kinds(ledger) == [EntryKind.CHARGE]


def test_a_void_with_another_reference_is_a_reused_key(ledger: Ledger) -> None:
    ledger.void("k", reference="r")

    with pytest.raises(IdempotencyKeyReused):
        ledger.void("k", reference="other")
    with pytest.raises(IdempotencyKeyReused):
        ledger.charge("k", reference="other", amount=TEN)


def test_entries_are_a_picture_of_the_moment(ledger: Ledger) -> None:
    before = ledger.entries()
    ledger.charge("k", reference="r", amount=TEN)

    assert list(before) == []


KEYS = st.sampled_from(["a", "b", "c"])
REFERENCES = st.sampled_from(["r", "s"])
AMOUNTS = st.sampled_from([TEN, ELEVEN])


class AnySequenceOfCalls(RuleBasedStateMachine):
    """Whatever is asked in whatever order, the entries agree with the payments."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(lambda: START)
        self.states: dict[str, list[PaymentState]] = {}

    def saw(self, key: str, state: PaymentState) -> None:
        history = self.states.setdefault(key, [])
        if not history or history[-1] is not state:
            history.append(state)

    @rule(key=KEYS, reference=REFERENCES, amount=AMOUNTS, reason=st.sampled_from(["", "no"]))
    def charge(self, key: str, reference: str, amount: Money, reason: str) -> None:
        try:
            payment = self.ledger.charge(
                key, reference=reference, amount=amount, decline_reason=reason
            )
        except IdempotencyKeyReused:
            known = self.ledger.get(key)
            assert known.reference != reference or known.amount != amount
            return
        assert payment.reference == reference
        assert payment.amount in (None, amount)
        self.saw(key, payment.state)

    @rule(key=KEYS)
    def refund(self, key: str) -> None:
        before = self.states.get(key, [None])[-1]
        try:
            payment = self.ledger.refund(key)
        except PaymentNotFound:
            assert before is None
        except PaymentNotCharged:
            assert before in (PaymentState.DECLINED, PaymentState.VOIDED)
        else:
            assert before in (PaymentState.CHARGED, PaymentState.REFUNDED)
            assert payment.state is PaymentState.REFUNDED
            self.saw(key, payment.state)

    @rule(key=KEYS, reference=REFERENCES)
    def void(self, key: str, reference: str) -> None:
        before = self.states.get(key, [None])[-1]
        try:
            payment = self.ledger.void(key, reference=reference)
        except IdempotencyKeyReused:
            assert self.ledger.get(key).reference != reference
        else:
            assert payment.state is (before or PaymentState.VOIDED)
            self.saw(key, payment.state)

    @invariant()
    def a_payment_changes_only_from_charged_to_refunded(self) -> None:
        for history in self.states.values():
            assert len(history) == 1 or history == [PaymentState.CHARGED, PaymentState.REFUNDED]

    @invariant()
    def the_money_moved_as_the_payments_say(self) -> None:
        moved: dict[str, list[EntryKind]] = {key: [] for key in self.states}
        for entry in self.ledger.entries():
            moved[entry.key].append(entry.kind)
            assert entry.amount == self.ledger.get(entry.key).amount
        charge, refund = EntryKind.CHARGE, EntryKind.REFUND
        for key, entries in moved.items():
            assert (
                entries
                == {
                    PaymentState.CHARGED: [charge],
                    PaymentState.REFUNDED: [charge, refund],
                    PaymentState.DECLINED: [],
                    PaymentState.VOIDED: [],
                }[self.ledger.get(key).state]
            )


TestAnySequenceOfCalls = AnySequenceOfCalls.TestCase
TestAnySequenceOfCalls.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
