"""A load that does not wait: so many customers a second, however long the server takes.

A customer places an order and looks at it; one in ten lists the own orders, one in twenty changes
their mind and cancels. Like real ones, they come when they come: a server that slows down gets more
and more of them at once, up to a limit.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

from orderflow.v1 import order_pb2
from orderflow_client.client import OrderClient, item
from orderflow_client.errors import OrderflowError
from orderflow_client.money import money

MOST_AT_ONCE = 1000
"""Beyond that nobody learns anything, and this process runs out of memory."""
_REPORT_S = 10.0
_CUSTOMERS = 500
_SKUS = 1000
_LIST = 0.10
_CANCEL = 0.05

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Tally:
    """What became of the calls since the last `take`.

    Attributes:
        calls: That succeeded.
        failures: By their reason.
        turned_away: Customers that could not come.
    """

    calls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    _latencies_s: list[float] = field(default_factory=list)

    def succeeded(self, latency_s: float) -> None:
        self.calls += 1
        self._latencies_s.append(latency_s)

    def take(self) -> str:
        """A sentence about it all; from then on it counts anew."""
        parts = [f"{self.calls} calls"]
        if len(self._latencies_s) > 1:
            percentiles = statistics.quantiles(self._latencies_s, n=100, method="inclusive")
            parts.append(
                f"p50 {percentiles[49] * 1000:.0f} ms, p99 {percentiles[98] * 1000:.0f} ms"
            )
        parts += [f"{count} failed: {reason}" for reason, count in self.failures.most_common()]
        if self.turned_away:
            parts.append(f"{self.turned_away} customers turned away")
        self.calls, self.turned_away = 0, 0
        self.failures.clear()
        self._latencies_s.clear()
        return ", ".join(parts)


async def report_load(
    client: OrderClient,
    *,
    rate: float,
    seconds: float,
    random: Random,
    clock: Clock,
    tell: Callable[[str], None],
) -> None:
    """Sends customers, and tells every 10 seconds and at the end how they fared.

    The arguments are those of `send_customers`.
    """
    tally = Tally()

    async def report() -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            tell(tally.take())

    reporting = asyncio.create_task(report())
    try:
        await send_customers(client, tally, rate=rate, seconds=seconds, random=random, clock=clock)
    finally:
        reporting.cancel()
        tell(tally.take())


async def send_customers(
    client: OrderClient,
    tally: Tally,
    *,
    rate: float,
    seconds: float,
    random: Random,
    clock: Clock,
    sleep: Sleep = asyncio.sleep,
    most_at_once: int = MOST_AT_ONCE,
) -> None:
    """Sends them at a steady rate, and returns when the last one has left.

    Args:
        client: What they use.
        tally: Is told how they fared.
        rate: Customers a second.
        seconds: For how long they come; may be infinite.
        random: Decides what they want.
        clock: In seconds, never backwards.
        sleep: Waits as long, in seconds.
        most_at_once: Who comes while so many are there is turned away.
    """
    began_s = clock()
    here = 0

    async def come() -> None:
        nonlocal here
        here += 1
        try:
            await _customer(client, tally, random, clock)
        except OrderflowError as error:
            tally.failures[error.reason or error.code.name] += 1
        finally:
            here -= 1

    async with asyncio.TaskGroup() as customers:
        for number in itertools.takewhile(lambda n: n < rate * seconds, itertools.count()):
            # Of the beginning, not of the one before: what is late once is made up for.
            await sleep(max(0.0, began_s + number / rate - clock()))
            if here < most_at_once:
                customers.create_task(come())
            else:
                tally.turned_away += 1


async def _customer(client: OrderClient, tally: Tally, random: Random, clock: Clock) -> None:
    customer_id = f"customer-{random.randrange(_CUSTOMERS)}"
    lists, cancels = random.random() < _LIST, random.random() < _CANCEL
    async with _timed(tally, clock):
        order = await client.create_order(
            customer_id=customer_id,
            items=_items(random),
            payment_token="tok_load",  # noqa: S106  not a password, and not a real token
        )
    async with _timed(tally, clock):
        await client.get_order(order.id)
    if lists:
        async with _timed(tally, clock):
            await client.list_orders_page(customer_id=customer_id)
    if cancels and order.state != order_pb2.ORDER_STATE_PAYMENT_DECLINED:
        async with _timed(tally, clock):
            await client.cancel_order(order.id)


def _items(random: Random) -> list[order_pb2.OrderItem]:
    return [
        item(f"SKU-{random.randrange(_SKUS)}", random.randint(1, 5), money("12.50", "EUR"))
        for _ in range(random.randint(1, 4))
    ]


@asynccontextmanager
async def _timed(tally: Tally, clock: Clock) -> AsyncIterator[None]:
    began_s = clock()
    yield
    tally.succeeded(clock() - began_s)
