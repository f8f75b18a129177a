"""The writes there are. Each is one value, so that it can wait and travel in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar
from uuid import UUID

from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import LONGEST_LEASE, LeasedOrder

T_co = TypeVar("T_co", covariant=True)


class Command(Generic[T_co]):
    """A write; `T_co` is what it results in when it succeeds."""

    __slots__ = ()


def _check(duration: timedelta) -> None:
    if not timedelta(0) <= duration <= LONGEST_LEASE:
        raise ValueError(f"a lease or delay must be from 0 to {LONGEST_LEASE}, not {duration}")


@dataclass(frozen=True, slots=True)
class Place(Command[Order]):
    """Writes a new order once per request id; results in the order as stored.

    Refused with RequestIdReused.
    """

    order: Order
    lease: timedelta

    def __post_init__(self) -> None:
        _check(self.lease)


@dataclass(frozen=True, slots=True)
class Save(Command[None]):
    """Writes the next version of an order.

    Refused with VersionConflict or OrderNotFound.

    Raises:
        ValueError: There is a lease though the order awaits nothing, or none though it does.
    """

    order: Order
    lease: timedelta | None

    def __post_init__(self) -> None:
        if self.order.state.awaits_gateway != (self.lease is not None):
            raise ValueError("a lease is for orders that await the gateway, and only for those")
        if self.lease is not None:
            _check(self.lease)


@dataclass(frozen=True, slots=True)
class Defer(Command[None]):
    """End the lease of an order that awaits the gateway `delay` from now; ignore any other."""

    order_id: UUID
    delay: timedelta

    def __post_init__(self) -> None:
        _check(self.delay)


@dataclass(frozen=True, slots=True)
class Park(Command[None]):
    """Withhold an order that awaits the gateway from LeaseDue; ignore any other."""

    order_id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class Release(Command[bool]):
    """Gives a parked order to LeaseDue again; results in False when it is not parked."""

    order_id: UUID


@dataclass(frozen=True, slots=True)
class LeaseDue(Command[tuple[LeasedOrder, ...]]):
    """Lease the due orders, fresh ones first, then at most `repeated` of the others."""

    lease: timedelta
    limit: int
    repeated: int | None = None

    def __post_init__(self) -> None:
        _check(self.lease)


@dataclass(frozen=True, slots=True)
class TakeLease(Command[bool]):
    """Takes or renews a named lease; results in False when another holder has it."""

    name: str
    holder: str
    lease: timedelta

    def __post_init__(self) -> None:
        _check(self.lease)


@dataclass(frozen=True, slots=True)
class GiveUpLease(Command[None]):
    """Ends a named lease if it is the holder's."""

    name: str
    holder: str


@dataclass(frozen=True, slots=True)
class Probe(Command[None]):
    """Writes a named lease and deletes it, and takes the locks that writing orders takes."""


@dataclass(frozen=True, slots=True)
class MarkPublished(Command[None]):
    """Takes events out of the outbox."""

    sequences: Sequence[int]


@dataclass(frozen=True, slots=True)
class Refuse(Command[None]):
    """Marks events as refused, with a reason for each sequence."""

    reasons: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class RetryRefused(Command[tuple[int, ...]]):
    """Makes refused events ready again; None: all. Results in their sequences."""

    sequences: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class SkipRefused(Command[tuple[int, ...]]):
    """Marks refused events as published; results in their sequences."""

    sequences: Sequence[int]
