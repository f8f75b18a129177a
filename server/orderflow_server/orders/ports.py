"""What the domain needs of the outside world. Who implements it: storage, payments, events."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from orderflow_server.orders.order import Order, OrderChange, OrderQuery, OrderState
from orderflow_server.orders.value import Value

if TYPE_CHECKING:
    # Only passed on: the domain measures no time with it.
    from orderflow_client.resilience.deadline import Deadline

Clock = Callable[[], datetime]
"""The time of day, in UTC, with its time zone set."""

NewOrderId = Callable[[datetime], UUID]
"""A UUIDv7 for an order created at the given time; one of a later millisecond is larger."""

REPEATED_ATTEMPTS = 3
"""An order that `lease_due` has given out this often is repeated: it comes behind fresh ones."""

LONGEST_LEASE = timedelta(minutes=10)
"""The longest lease or delay. One that ends later was written under a wrong clock."""


class OrderStore(Protocol):
    """Keeps orders, durably. What a method returned is on disk.

    Every write is atomic and independent of the task that asked for it: cancelling the
    caller leaves the write either never started or completed. An order that awaits the
    gateway is leased to its last writer for the time given; after that `lease_due`
    gives it to anybody, so that an order whose process died is found again.

    Leases, delays and ages are measured by the store's own clock, never by a replica's. A lease
    that ends more than LONGEST_LEASE ahead of that clock counts as ended: it was written under a
    wrong clock. A duration that is negative or longer than LONGEST_LEASE is a ValueError.

    All methods raise StoreUnavailable when the store fails, and InvalidValue when it cannot hold a
    value that they are given: text with NUL or that is not Unicode, a number of more than 64 bits.
    The writes also raise StoreOverloaded when too much is waiting and DeadlineExpired when the
    ambient deadline passed before the write began (in both cases nothing was written).
    """

    async def place(self, order: Order, *, lease: timedelta) -> Order:
        """Writes a new order with its items and its first change, once per request id.

        Returns the order as stored: `order` itself, or the one that the same request id
        placed earlier with the same content.

        Raises:
            RequestIdReused: The request id placed an order with other content.
        """
        ...

    async def save(self, order: Order, *, lease: timedelta | None = None) -> None:
        """Writes the next version of an order and its change.

        Args:
            order: Its version must be the stored one plus 1.
            lease: Required while the order awaits the gateway, None otherwise.

        Raises:
            VersionConflict: The stored version is another; nothing was written.
            OrderNotFound: There is no such order.
        """
        ...

    async def defer(self, order_id: UUID, *, delay: timedelta) -> None:
        """End the lease of an order that awaits the gateway `delay` from now; ignore any other.

        No version, no change: only when `lease_due` may give the order out again.
        """
        ...

    async def lease_due(
        self, *, lease: timedelta, limit: int, repeated: int | None = None
    ) -> Sequence[LeasedOrder]:
        """Lease due orders that await the gateway, and count the attempt of each.

        Fresh orders come first, those with fewer than REPEATED_ATTEMPTS attempts so far, then
        repeated ones; among each kind the one whose lease ended first. No order is given to two
        callers.

        Args:
            lease: For how long the caller has the orders.
            limit: The most orders in all.
            repeated: The most repeated orders among them. None: no bound of their own.
        """
        ...

    async def park(self, order_id: UUID, *, reason: str) -> None:
        """Withhold an order that awaits the gateway from `lease_due` until it is released.

        Does nothing to any other, nor to one that is parked. No version, no change; the next
        version that is saved is not parked.
        """
        ...

    async def release(self, order_id: UUID) -> bool:
        """Return a parked order to `lease_due`, due at once, its attempts and reason cleared.

        Returns False when it is not parked; then nothing was done.
        """
        ...

    async def parked(self, *, limit: int, reason: str = "") -> Sequence[ParkedOrder]:
        """Return parked orders, longest parked first, at most `limit`.

        Args:
            limit: The most orders.
            reason: Only those whose reason begins with this.
        """
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

    async def probe(self) -> None:
        """Returns when the store has written something that it need not keep; changes no order."""
        ...


class LeasedOrder(Value, frozen=True, gc=False):
    """An order to settle.

    Attributes:
        attempts: How often `lease_due` has given it out in its present state, this time included.
    """

    order: Order
    attempts: int


class ParkedOrder(Value, frozen=True, gc=False):
    """An order that is withheld from settlement until a person releases it.

    Attributes:
        age: For how long it has been parked.
        reason: Why; empty when a server of the release before parked it.
        attempts: How often `lease_due` had given it out in its present state.
    """

    order: Order
    age: timedelta
    reason: str
    attempts: int


class Waiting(Value, frozen=True, gc=False):
    """The number of waiting items, and the age of the oldest when it was read; None: no item."""

    count: int = 0
    age: timedelta | None = None


class Backlog(Value, frozen=True, gc=False, kw_only=True):
    """What is written down and still has to be done.

    Attributes:
        orders: By state, the orders that await the gateway, each since it entered that state.
            A state that no order is in is missing. Those that are parked are not among them.
        events: Events that are ready to be published. Neither refused ones nor those behind them.
            Counted only on request.
        parked: How many orders are parked.
        refused: Number of refused events. Counted only on request, as `events`.
    """

    orders: Mapping[OrderState, Waiting]
    events: Waiting = Waiting()
    parked: int = 0
    refused: int = 0


class OutboxEvent(Value, frozen=True, gc=False):
    """A change that is to be published.

    Attributes:
        sequence: Grows with each change of an order; of different orders it says little.
        order: The order as it was after that change, the trace it was placed in included.
    """

    sequence: int
    order: Order


class RefusedEvent(Value, frozen=True, gc=False, kw_only=True):
    """An event that the stream refused, and that is not published or skipped since.

    Attributes:
        state: The order's state at that version.
        age: Time since the refusal.
    """

    sequence: int
    order_id: UUID
    version: int
    state: OrderState
    reason: str
    age: timedelta


class Outbox(Protocol):
    """What was written down to be published, and who is to publish it.

    Every change is written in the same transaction as its event. All methods raise
    StoreUnavailable when the store fails; the writes also raise StoreOverloaded and
    DeadlineExpired, as those of `OrderStore` do.
    """

    async def take_lease(self, name: str, *, holder: str, lease: timedelta) -> bool:
        """Take or renew a named lease for the given time; False: another holder has it.

        Measured by the store's clock, as the leases of `OrderStore` are.
        """
        ...

    async def give_up_lease(self, name: str, *, holder: str) -> None:
        """Lets anybody have the lease; does nothing when it is another holder's."""
        ...

    async def unpublished(
        self, *, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]:
        """Read the oldest events that are ready to be published, in the order of their sequence.

        Events of one order come in the order of its versions, without gaps. Neither refused
        events nor those behind them are included: later versions of an order wait for its
        refused event to be published or skipped.

        Args:
            limit: Maximum number of events.
            without: Orders whose events are left out.
        """
        ...

    async def mark_published(self, sequences: Sequence[int]) -> None:
        """Mark events as published. Idempotent."""
        ...

    async def refuse(self, reasons: Mapping[int, str]) -> None:
        """Mark events as refused, by the database's clock. Idempotent: the first reason is kept.

        Does nothing to published events.

        Args:
            reasons: By the event's sequence.
        """
        ...

    async def refused(self, *, limit: int) -> Sequence[RefusedEvent]:
        """Read the oldest refused events, in the order of their sequence."""
        ...

    async def retry_refused(self, sequences: Sequence[int] | None = None) -> Sequence[int]:
        """Make refused events ready to be published again. Idempotent.

        Args:
            sequences: None: all.

        Returns:
            Sequences of the events that were refused until now, ascending.
        """
        ...

    async def skip_refused(self, sequences: Sequence[int]) -> Sequence[int]:
        """Mark refused events as published without publishing them; keep the refusal on record.

        Later versions of their orders are ready then. Idempotent.

        Returns:
            Sequences of the events that were refused until now, ascending.
        """
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
    deadline; its cause is the last real error. They raise PaymentInvalid when the answer does not
    fit the question.
    """

    async def find(self, order: Order) -> Payment | None:
        """Return the order's payment as it is; None when the gateway knows of none."""
        ...

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

    async def settle(self, order: Order, *, until: Deadline) -> Order:
        """Ask the gateway and save the outcome; join an attempt in progress.

        Return the order at rest, or as it is when there was no outcome by `until`: then it is
        tried again later. Cancelling the caller does not cancel the attempt.

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
