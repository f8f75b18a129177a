"""The service without its wire: use cases over fakes, and the worker's part done by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from itertools import count
from uuid import UUID

from fakes.clock import FakeClock
from fakes.gateway import FakeGateway
from fakes.orders import ITEMS, order_id, request_id
from fakes.steps import Pass, Point, SteppedGateway, SteppedStore
from fakes.store import FakeOrderStore
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.cancelling import CancelOrder
from orderflow_server.orders.order import Order, OrderDraft, OrderItem, OrderQuery
from orderflow_server.orders.placing import PlaceOrder
from orderflow_server.orders.ports import OrderStore, PaymentGateway
from orderflow_server.payments.audit import Audit, AuditedOrder, audit
from orderflow_server.payments.refusals import RefusalWatch
from orderflow_server.payments.settlement import MAX_ATTEMPTS, Settlement, SettlementEvent

LEASE = timedelta(seconds=30)
LONG_S = 3600.0
"""A budget that does not pass while a test runs."""


class World:
    """What outlives a process: the clock, the store and the gateway.

    Args:
        store: By default one in memory.
        clock: That of the store.
    """

    def __init__(self, store: OrderStore | None = None, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.store = FakeOrderStore(self.clock) if store is None else store
        self.gateway = FakeGateway(self.clock)
        numbers = count(1)
        self.new_order_id = lambda now: order_id(next(numbers), now)

    async def recover(self) -> None:
        """What the worker of a new process does when every lease has ended and nothing fails."""
        self.clock.advance(timedelta(hours=1))
        self.gateway.heal()
        settlement = Process(self).settlement
        while leased := await self.store.lease_due(lease=LEASE, limit=100):
            for order in leased:
                await settlement.settle_leased(order, until=Deadline.after(LONG_S))

    async def orders(self) -> list[Order]:
        return list(await self.store.list(OrderQuery(limit=1000)))

    async def audit(self, *acknowledged: Order) -> Audit:
        return audit(
            acknowledged={str(order.id) for order in acknowledged},
            orders=[AuditedOrder(str(o.id), o.state, o.total) for o in await self.orders()],
            ledger=self.gateway.ledger.entries(),
        )


class Process:
    """One process of the service.

    Attributes:
        journal: The writes and the questions to the gateway that were begun, in order.
        events: What the settlement told its listener.
    """

    def __init__(
        self,
        world: World,
        *,
        retry_delay: Callable[[int], timedelta] = lambda attempts: timedelta(seconds=2**attempts),
        max_attempts: int = MAX_ATTEMPTS,
        gateway: PaymentGateway | None = None,
        pass_: Pass | None = None,
    ) -> None:
        self.journal: list[str] = []
        self.events: list[SettlementEvent] = []
        self._pass = pass_
        self.refusals = RefusalWatch(self.events.append)
        store = SteppedStore(world.store, self._passed)
        stepped = SteppedGateway(world.gateway if gateway is None else gateway, self._passed)
        self.settlement = Settlement(
            store=store,
            gateway=stepped,
            now=world.clock,
            refusals=self.refusals,
            retry_delay=retry_delay,
            max_attempts=max_attempts,
            listener=self.events.append,
        )
        self.place_order = PlaceOrder(
            store=store,
            settler=self.settlement,
            now=world.clock,
            new_order_id=world.new_order_id,
            lease=LEASE,
        )
        self.cancel_order = CancelOrder(
            store=store, gateway=stepped, settler=self.settlement, now=world.clock, lease=LEASE
        )

    async def place(self, request: int = 1, *, budget_s: float = LONG_S) -> Order:
        return await self.place_order(draft(request), until=Deadline.after(budget_s))

    async def cancel(self, order_id: UUID, *, budget_s: float = LONG_S) -> Order:
        return await self.cancel_order(order_id, until=Deadline.after(budget_s))

    async def _passed(self, point: Point) -> None:
        if not point.done and point.method not in ("get", "changes"):
            self.journal.append(point.method)
        if self._pass is not None:
            await self._pass(point)


def draft(
    request: int = 1,
    *,
    customer_id: str = "ada",
    items: tuple[OrderItem, ...] = ITEMS,
    payment_token: str = "tok_visa",
) -> OrderDraft:
    return OrderDraft(request_id(request), customer_id, items, payment_token)


class Hold:
    """Stops every call at one point until it is opened. Pass it to a `Process`."""

    def __init__(self, of: str, method: str, *, done: bool = False) -> None:
        self._at = (of, method, done)
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    async def __call__(self, point: Point) -> None:
        if (point.of, point.method, point.done) == self._at:
            self._reached.set()
            await self._open.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(5):
            await self._reached.wait()

    def open(self) -> None:
        self._open.set()


class Fail:
    """Raises each of the errors once at one point. Pass it to a `Process`."""

    def __init__(self, of: str, method: str, *errors: Exception, done: bool = False) -> None:
        self._at = (of, method, done)
        self._errors = list(errors)

    async def __call__(self, point: Point) -> None:
        if (point.of, point.method, point.done) == self._at and self._errors:
            raise self._errors.pop(0)


async def until(condition: Callable[[], bool]) -> None:
    """Lets every other task run until the condition holds."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to be")


def tasks_left() -> set[str]:
    """The names of the tasks that run beside the test."""
    return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}
