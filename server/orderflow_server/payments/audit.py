"""The audit: do the orders and the gateway's ledger tell the same story?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from orderflow_server.orders.money import Money
from orderflow_server.orders.order import OrderState
from orderflow_server.payments.simulator.ledger import EntryKind, LedgerEntry


@dataclass(frozen=True, slots=True)
class AuditedOrder:
    """What the audit needs to know of an order."""

    id: str
    state: OrderState
    total: Money


@dataclass(frozen=True, slots=True)
class Audit:
    """What does not add up, as the ids of orders; all empty when everything does.

    Attributes:
        lost: Acknowledged to a caller, and not there.
        double_charged: Charged more than once.
        unpaid: PAID and not charged, or charged another amount, or refunded.
        overcharged: Charged and neither paid, nor refunded, nor still on its way to either.
        unknown: In the ledger, and no order of ours.
        unsettled: Still waiting for the gateway: nothing is wrong yet.
    """

    lost: list[str] = field(default_factory=list)
    double_charged: list[str] = field(default_factory=list)
    unpaid: list[str] = field(default_factory=list)
    overcharged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unsettled: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing is wrong and nothing is open."""
        return not (
            self.lost
            or self.double_charged
            or self.unpaid
            or self.overcharged
            or self.unknown
            or self.unsettled
        )


def audit(
    *,
    acknowledged: Collection[str],
    orders: Iterable[AuditedOrder],
    ledger: Iterable[LedgerEntry],
) -> Audit:
    """Compares every order with every movement of money.

    Args:
        acknowledged: The ids of the orders that callers were told of.
        orders: All orders of the store.
        ledger: All entries of the gateway; their reference is the order's id.
    """
    charges: Mapping[str, list[Money]] = defaultdict(list)
    refunds: Mapping[str, list[Money]] = defaultdict(list)
    for entry in ledger:
        books = charges if entry.kind is EntryKind.CHARGE else refunds
        books[entry.reference].append(entry.amount)

    found = Audit()
    known = set()
    for order in orders:
        known.add(order.id)
        charged, refunded = charges.get(order.id, []), refunds.get(order.id, [])
        if len(charged) > 1:
            found.double_charged.append(order.id)
        if order.state.awaits_gateway:
            found.unsettled.append(order.id)
        elif order.state is OrderState.PAID:
            if charged[:1] != [order.total] or refunded:
                found.unpaid.append(order.id)
        elif charged != refunded:
            found.overcharged.append(order.id)
    found.lost.extend(sorted(set(acknowledged) - known))
    found.unknown.extend(sorted({*charges, *refunds} - known))
    return found
