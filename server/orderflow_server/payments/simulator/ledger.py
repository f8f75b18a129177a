"""The simulated gateway's books: at most one payment under a key, and every movement of money.

LedgerError
├── IdempotencyKeyReused    the key has a payment with another amount or reference
├── PaymentNotFound         there is no payment under the key
└── PaymentNotCharged       the payment took no money, so there is none to give back
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from datetime import datetime

from msgspec import structs

from orderflow_server.orders.money import Money
from orderflow_server.orders.ports import Clock, PaymentState
from orderflow_server.orders.value import Value


class LedgerError(Exception):
    """The books do not allow what was asked; nothing was changed."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{what}: {key}")
        self.key = key


class IdempotencyKeyReused(LedgerError):
    def __init__(self, key: str) -> None:
        super().__init__(key, "the key has a payment with another amount or reference")


class PaymentNotFound(LedgerError):
    def __init__(self, key: str) -> None:
        super().__init__(key, "there is no payment under the key")


class PaymentNotCharged(LedgerError):
    def __init__(self, key: str) -> None:
        super().__init__(key, "the payment was not charged")


class LedgerPayment(Value, frozen=True, gc=False, kw_only=True):
    """What is known under one key.

    Attributes:
        amount: None when the key was voided before any charge.
        decline_reason: Empty unless declined.
    """

    key: str
    reference: str
    amount: Money | None
    state: PaymentState
    decline_reason: str = ""
    create_time: datetime


class EntryKind(enum.Enum):
    """Which way money went."""

    CHARGE = "CHARGE"
    REFUND = "REFUND"


class LedgerEntry(Value, frozen=True, gc=False, kw_only=True):
    """One movement of money."""

    kind: EntryKind
    key: str
    reference: str
    amount: Money
    time: datetime


class Ledger:
    """Payments by key, and the movements of money they caused, oldest first.

    Every method is one step that nothing can interrupt: on one event loop they are atomic.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._payments: dict[str, LedgerPayment] = {}
        self._entries: list[LedgerEntry] = []

    def charge(
        self, key: str, *, reference: str, amount: Money, decline_reason: str = ""
    ) -> LedgerPayment:
        """Writes a payment, unless there is one under the key: then returns that one.

        A new payment is declined when there is a `decline_reason`, else charged.

        Raises:
            IdempotencyKeyReused: The payment has another amount or reference.
        """
        known = self._payments.get(key)
        if known is not None:
            same_amount = known.amount is None or known.amount == amount
            if known.reference != reference or not same_amount:
                raise IdempotencyKeyReused(key)
            return known
        payment = LedgerPayment(
            key=key,
            reference=reference,
            amount=amount,
            state=PaymentState.DECLINED if decline_reason else PaymentState.CHARGED,
            decline_reason=decline_reason,
            create_time=self._now(),
        )
        self._payments[key] = payment
        if payment.state is PaymentState.CHARGED:
            self._book(EntryKind.CHARGE, payment, amount, payment.create_time)
        return payment

    def refund(self, key: str) -> LedgerPayment:
        """Gives a charged payment's money back; one that is refunded is returned as it is.

        Raises:
            PaymentNotFound: There is no payment under the key.
            PaymentNotCharged: It is declined or voided.
        """
        payment = self.get(key)
        if payment.state is PaymentState.REFUNDED:
            return payment
        if payment.state is not PaymentState.CHARGED or payment.amount is None:
            raise PaymentNotCharged(key)
        refunded = structs.replace(payment, state=PaymentState.REFUNDED)
        self._payments[key] = refunded
        self._book(EntryKind.REFUND, refunded, payment.amount, self._now())
        return refunded

    def void(self, key: str, *, reference: str) -> LedgerPayment:
        """Fences an unused key against every later charge, or returns the payment as it is.

        Raises:
            IdempotencyKeyReused: The payment has another reference.
        """
        known = self._payments.get(key)
        if known is not None:
            if known.reference != reference:
                raise IdempotencyKeyReused(key)
            return known
        voided = LedgerPayment(
            key=key,
            reference=reference,
            amount=None,
            state=PaymentState.VOIDED,
            create_time=self._now(),
        )
        self._payments[key] = voided
        return voided

    def get(self, key: str) -> LedgerPayment:
        """The payment under a key.

        Raises:
            PaymentNotFound: There is none.
        """
        payment = self._payments.get(key)
        if payment is None:
            raise PaymentNotFound(key)
        return payment

    def entries(self) -> Sequence[LedgerEntry]:
        """Every movement of money up to now; later ones do not appear in it."""
        return tuple(self._entries)

    def _book(self, kind: EntryKind, payment: LedgerPayment, amount: Money, time: datetime) -> None:
        self._entries.append(
            LedgerEntry(
                kind=kind,
                key=payment.key,
                reference=payment.reference,
                amount=amount,
                time=time,
            )
        )
