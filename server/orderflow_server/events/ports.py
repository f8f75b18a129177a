"""What the relay needs of whoever carries events away, and what it tells its listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent


class PublishFailed(Exception):
    """What was to be published may not have been: publish it again, it is deduplicated."""


class EventRefused(Exception):
    """This event will not be accepted, however often it is published. Others may be.

    Its text is the reason, and holds nothing of the order.
    """


class EventPublisher(Protocol):
    """Carries events away, each at least once."""

    async def prepare(self) -> None:
        """Returns when `publish` can be called; at once when nothing has failed since the last.

        Raises:
            PublishFailed: Not now.
        """
        ...

    async def publish(self, event: OutboxEvent) -> None:
        """Returns when the event is kept where it was carried to. May run for many at a time.

        Raises:
            PublishFailed: It is not known to be kept.
            EventRefused: It is refused for good. The publisher is as ready as before.
        """
        ...


def event_id(order: Order) -> str:
    """What the event of this version of the order is deduplicated by."""
    return f"{order.id}/{order.version}"


@dataclass(frozen=True, slots=True)
class EventPublished:
    """An event was published, perhaps not for the first time."""

    event: OutboxEvent


@dataclass(frozen=True, slots=True)
class EventNotPublished:
    """An event could not be published; it is tried again."""

    event: OutboxEvent
    cause: Exception


@dataclass(frozen=True, slots=True)
class EventSetAside:
    """An event was refused and marked so; it waits for an operator."""

    event: OutboxEvent
    cause: EventRefused


@dataclass(frozen=True, slots=True)
class LeadChanged:
    """This relay became, or is no longer, the one that publishes."""

    leads: bool


RelayEvent = EventPublished | EventNotPublished | EventSetAside | LeadChanged
RelayListener = Callable[[RelayEvent], None]
