"""The writes there are. Each is one value, so that it can wait and travel in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import LeasedOrder

T_co = TypeVar("T_co", covariant=True)


class Command(Generic[T_co]):
    """A write; `T_co` is what it results in when it succeeds."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Place(Command[Order]):
    """Writes a new order once per request id; results in the order as stored.

    Refused with RequestIdReused.
    """

    order: Order
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Save(Command[None]):
    """Writes the next version of an order.

    Refused with VersionConflict or OrderNotFound.

    Raises:
        ValueError: There is a lease though the order awaits nothing, or none though it does.
    """

    order: Order
    lease_until: datetime | None

    def __post_init__(self) -> None:
        if self.order.state.awaits_gateway != (self.lease_until is not None):
            raise ValueError("lease_until is for orders that await the gateway, and only for those")


@dataclass(frozen=True, slots=True)
class Defer(Command[None]):
    """Moves the lease of an order that awaits the gateway; does nothing to any other."""

    order_id: UUID
    until: datetime


@dataclass(frozen=True, slots=True)
class Park(Command[None]):
    """Takes an order that awaits the gateway away from LeaseDue; does nothing to any other."""

    order_id: UUID
    now: datetime


@dataclass(frozen=True, slots=True)
class Release(Command[bool]):
    """Gives a parked order to LeaseDue again; results in False when it is not parked."""

    order_id: UUID
    now: datetime


@dataclass(frozen=True, slots=True)
class LeaseDue(Command[tuple[LeasedOrder, ...]]):
    """Leases the orders whose lease ended at or before `now`, longest waiting first."""

    now: datetime
    lease_until: datetime
    limit: int


@dataclass(frozen=True, slots=True)
class TakeLease(Command[bool]):
    """Takes or renews a named lease; results in False when another holder has it."""

    name: str
    holder: str
    now: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class GiveUpLease(Command[None]):
    """Ends a named lease if it is the holder's."""

    name: str
    holder: str


@dataclass(frozen=True, slots=True)
class MarkPublished(Command[None]):
    """Takes events out of the outbox."""

    sequences: Sequence[int]
