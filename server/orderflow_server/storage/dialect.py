"""What the engine and the store need of a database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from orderflow_server.orders.errors import OrderError
from orderflow_server.orders.order import Order, OrderChange, OrderQuery
from orderflow_server.orders.ports import Backlog, OutboxEvent, ParkedOrder, RefusedEvent
from orderflow_server.storage.commands import Command


class PoisonedBatch(Exception):
    """The data of at least one command cannot be written, so none of the batch was.

    Its cause is the database's own error.

    Attributes:
        invalid_value: A value is at fault, which its caller chose; False: this program is.
    """

    def __init__(self, *, invalid_value: bool = False) -> None:
        super().__init__()
        self.invalid_value = invalid_value


@dataclass(frozen=True, slots=True)
class Written:
    """A batch that is on disk.

    Attributes:
        outcomes: For each command of the batch, in its order: its result, or the OrderError
            with which it was refused.
        changed: The new versions.
    """

    outcomes: Sequence[object | OrderError]
    changed: Sequence[Order]


class Dialect(Protocol):
    """One kind of database. All methods raise StoreUnavailable, from the cause, when it fails.

    The reads raise InvalidValue when the database refuses a parameter.
    """

    async def open(self, *, existing_only: bool = False) -> None:
        """Connects and brings the schema up to date.

        Args:
            existing_only: Create and migrate nothing: a database that is missing, or whose schema
                is older, is an error.
        """
        ...

    async def write(self, batch: Sequence[Command[Any]]) -> Written:
        """Writes a batch in one transaction, as if its commands had run one after the other.

        In which order is the dialect's choice: the commands of a batch all waited at the same
        time, so none can have been meant to come before another.

        Raises:
            PoisonedBatch: Some command's data cannot be written; nothing was.
        """
        ...

    async def get(self, order_id: UUID) -> Order | None: ...

    async def list(self, query: OrderQuery) -> Sequence[Order]: ...

    async def changes(self, order_id: UUID, after_version: int) -> Sequence[OrderChange]: ...

    async def parked(self, limit: int, reason: str) -> Sequence[ParkedOrder]: ...

    async def backlog(self, *, events: bool) -> Backlog: ...

    async def unpublished(
        self, limit: int, without: Collection[UUID] = ()
    ) -> Sequence[OutboxEvent]: ...

    async def refused(self, limit: int) -> Sequence[RefusedEvent]: ...

    async def ping(self) -> None: ...

    async def listen(
        self, on_change: Callable[[Iterable[UUID]], None], on_gap: Callable[[], None]
    ) -> None:
        """Tells of orders that any process changed, until it is cancelled; never raises.

        Returns at once where no other process is expected.

        Args:
            on_change: Called in the event loop, after the commit.
            on_gap: Called whenever listening has begun, again or for the first time: of what was
                changed before that nothing may have been told.
        """
        ...

    async def lost(self) -> str:
        """Returns, with the reason, when no process can use the database ever again.

        That is where a file is not in its place any more. A server may always come back: then
        it does not return until it is cancelled.
        """
        ...

    async def close(self) -> None:
        """Disconnects when what is running has ended. Again: does nothing."""
        ...
