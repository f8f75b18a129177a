"""What the domain needs of the outside world. Who implements it: storage, payments, events."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.value import Value

Clock = Callable[[], datetime]
"""The time of day, in UTC, with its time zone set."""

NewOrderId = Callable[[datetime], UUID]
"""A UUIDv7 for an order created at the given time; one of a later millisecond is larger."""


class OrderStore(Protocol):
    """Keeps orders, durably. What a method returned is on disk.

    Every write is atomic and independent of the task that asked for it: cancelling the
    caller leaves the write either never started or completed. An order that awaits the
    gateway is leased to whoever wrote it last until `lease_until`; after that `lease_due`
    gives it to anybody, so that an order whose process died is found again.

    All methods raise StoreUnavailable when the store fails; the writes also raise
    StoreOverloaded when too much is waiting and DeadlineExpired when the ambient deadline
    passed before the write began (in both cases nothing was written).
    """

    async def place(self, order: Order, *, lease_until: datetime) -> Order:
        """Writes a new order with its items and its first change, once per request id.

        Returns the order as stored: `order` itself, or the one that the same request id
        placed earlier with the same content.

        Raises:
            RequestIdReused: The request id placed an order with other content.
        """
        ...

    async def save(self, order: Order, *, lease_until: datetime | None = None) -> None:
        """Writes the next version of an order and its change.

        Args:
            order: Its version must be the stored one plus 1.
            lease_until: Required while the order awaits the gateway, None otherwise.

        Raises:
            VersionConflict: The stored version is another; nothing was written.
            OrderNotFound: There is no such order.
        """
        ...

    async def defer(self, order_id: UUID, *, until: datetime) -> None:
        """Moves the lease of an order that awaits the gateway; does nothing to any other.

        No version, no change: only when `lease_due` may give the order out again.
        """
        ...

    async def lease_due(
        self, *, now: datetime, lease_until: datetime, limit: int
    ) -> Sequence[LeasedOrder]:
        """Takes orders that await the gateway and whose lease ended at or before `now`.

        Longest waiting first, at most `limit`, each leased to the caller until
        `lease_until` and its attempts counted. No order is given to two callers.
        """
        ...

    async def park(self, order_id: UUID, *, now: datetime) -> None:
        """Takes an order that awaits the gateway away from `lease_due` until it is released.

        Does nothing to any other, nor to one that is parked. No version, no change; the next
        version that is saved is not parked.
        """
        ...

    async def release(self, order_id: UUID, *, now: datetime) -> bool:
        """Gives a parked order to `lease_due` again, at once and with its attempts counted anew.

        Returns False when it is not parked; then nothing was done.
        """
        ...

    async def parked(self, *, limit: int) -> Sequence[Order]:
        """Reads parked orders, longest parked first, at most `limit`."""
        ...

    async def get(self, order_id: UUID) -> Order:
        """Reads one order.

        Raises:
            OrderNotFound: There is no such order.
        """
        ...

    async def list(self, query: OrderQuery) -> Sequence[Order]:
        """Reads the newest orders that match, by id descending."""
        ...

    async def changes(self, order_id: UUID, *, after_version: int) -> Sequence[OrderChange]:
        """Reads an order's changes with a version above `after_version`, oldest first."""
        ...

    async def backlog(self, *, events: bool = False) -> Backlog:
        """Counts what still has to be done; takes the longer the more there is.

        Args:
            events: Count those that are not published, too. For who publishes them: where
                nobody does, they are all the events there are.
        """
        ...

    async def ping(self) -> None:
        """Returns when the store can answer."""
        ...


class LeasedOrder(Value, frozen=True, gc=False):
    """An order to settle.

    Attributes:
        attempts: How often `lease_due` has given it out in its present state, this time included.
    """

    order: Order
    attempts: int


class Waiting(Value, frozen=True, gc=False):
    """How many wait, and since when the one does that has waited longest; None: none waits."""

    count: int = 0
    oldest: datetime | None = None


class Backlog(Value, frozen=True, gc=False, kw_only=True):
    """What is written down and still has to be done.

    Attributes:
        orders: By state, the orders that await the gateway, each since it entered that state.
            A state that no order is in is missing. Those that are parked are not among them.
        events: The changes that are not published yet. None unless they were asked for.
        parked: How many orders are parked.
    """

    orders: Mapping[OrderState, Waiting]
    events: Waiting = Waiting()
    parked: int = 0


class OutboxEvent(Value, frozen=True, gc=False):
    """A change that is to be published.

    Attributes:
        sequence: Grows with each change of an order; of different orders it says little.
        order: The order as it was after that change, the trace it was placed in included.
    """

    sequence: int
    order: Order


class Outbox(Protocol):
    """What was written down to be published, and who is to publish it.

    Every change is written in the same transaction as its event. All methods raise
    StoreUnavailable when the store fails; the writes also raise StoreOverloaded and
    DeadlineExpired, as those of `OrderStore` do.
    """

    async def take_lease(self, name: str, *, holder: str, now: datetime, until: datetime) -> bool:
        """Takes or renews a named lease; False: another holder has it until later than `now`."""
        ...

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        """Lets anybody have the lease; does nothing when it is another holder's."""
        ...

    async def unpublished(self, *, limit: int) -> Sequence[OutboxEvent]:
        """Reads the oldest events that are not marked, in the order of their sequence.

        Those of one order come in the order of its versions, without gaps.
        """
        ...

    async def mark_published(self, sequences: Sequence[int]) -> None:
        """Has `unpublished` not tell of these events again; again: does nothing."""
        ...


class PaymentState(enum.Enum):
    """What became of a payment at the gateway."""

    CHARGED = "CHARGED"
    DECLINED = "DECLINED"
    REFUNDED = "REFUNDED"
    VOIDED = "VOIDED"


class Payment(Value, frozen=True, gc=False):
    """The payment of an order as the gateway knows it."""

    state: PaymentState
    decline_reason: str = ""


class PaymentGateway(Protocol):
    """Moves money, at most once per order: each call may be repeated and interrupted.

    All methods raise PaymentUnresolved when there is no usable answer within the ambient
    deadline; its cause is the last real error.
    """

    async def charge(self, order: Order) -> Payment:
        """Charges the total, unless the order has a payment already: then returns that one."""
        ...

    async def refund(self, order: Order) -> Payment:
        """Gives a charged order's money back; the answer is REFUNDED."""
        ...

    async def void(self, order: Order) -> Payment:
        """Rules out a charge that has not happened; otherwise returns the payment as it is."""
        ...


class Settler(Protocol):
    """Brings an order that awaits the gateway to rest."""

    async def settle(self, order: Order, *, budget_s: float) -> Order:
        """Asks the gateway and writes the outcome down; joins an attempt under way.

        Returns the order at rest, or as it is when there was no outcome within `budget_s`
        seconds: then it is tried again later, whoever asked. Cancelling the caller does not
        cancel the attempt.

        Raises:
            StoreOverloaded, StoreUnavailable: The outcome may not have been written; it is
                found again at the gateway.
        """
        ...


class ChangeSignal(Protocol):
    """Says that an order may have changed."""

    async def wait(self) -> None:
        """Returns when the order may have changed since the subscription or the last wait.

        Raises:
            FeedClosed: There will be no more signals.
        """
        ...


class ChangeFeed(Protocol):
    """Tells who watches an order to read it again."""

    def subscribe(self, order_id: UUID) -> AbstractContextManager[ChangeSignal]:
        """While the context lasts no change is missed; several may be one signal."""
        ...
