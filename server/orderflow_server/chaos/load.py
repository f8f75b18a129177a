"""The load of a scenario: customers who place an order each, and come whether or not it works."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from orderflow.v1 import order_pb2
from orderflow_client import OrderClient, OrderflowError, Overloaded, item, money
from orderflow_client.client import UNSETTLED_STATES
from orderflow_server.chaos.recording import OK, REFUSED, Call, Placed, Recording

_TICK_S = 0.005
_FOLLOW_TIMEOUT_S = 120.0
_LAST_ANSWERS_S = 2.0
"""How long to wait for followed orders of which the service says already that they are settled."""

_MOST_ITEMS = 100
_LONGEST_SKU = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OddOrders:
    """Orders that the fault is about; see `Placed.odd`.

    Attributes:
        count: How many are placed.
        every_s: How long after each other. 0: all at once.
        payment_token: Theirs.
        large: They have as many items as an order may have, with names as long as possible.
    """

    count: int
    every_s: float = 0.0
    payment_token: str = "tok_chaos"  # noqa: S105  not a password, and not a real token
    large: bool = False


class Load:
    """Places orders at a rate, and writes down what became of each call.

    Args:
        client: What the customers use, as it comes: its retries are part of a call.
        recording: Where the calls go.
        random: What they order, and under which request_id.
        clock: Seconds since the load began.
        follow: Watch each order that is not settled in its answer until it is.
        read_back: Get each order as soon as it is acknowledged.
    """

    def __init__(
        self,
        client: OrderClient,
        recording: Recording,
        *,
        random: Random,
        clock: Callable[[], float],
        follow: bool = False,
        read_back: bool = False,
    ) -> None:
        self._client = client
        self._recording = recording
        self._random = random
        self._clock = clock
        self._follow = follow
        self._read_back = read_back
        self._following: set[asyncio.Task[None]] = set()
        self.acknowledged: list[str] = []

    async def run(self, *, rate_at: Callable[[float], float], duration_s: float) -> None:
        """Returns when the last call has ended.

        Args:
            rate_at: Orders a second at a time.
            duration_s: For how long customers come.
        """
        due, before_s = 0.0, 0.0
        async with asyncio.TaskGroup() as customers:
            while (now_s := self._clock()) < duration_s:
                late_s = now_s - before_s - _TICK_S
                self._recording.late_s = max(self._recording.late_s, late_s)
                # What is late once is made up for.
                due += rate_at(now_s) * (now_s - before_s)
                before_s = now_s
                while due >= 1:
                    due -= 1
                    customers.create_task(self.place())
                await asyncio.sleep(_TICK_S)

    async def place_odd(self, odd: OddOrders) -> None:
        """Place the odd orders; return when the last call has ended."""
        async with asyncio.TaskGroup() as customers:
            for _ in range(odd.count):
                customers.create_task(self.place(odd))
                await asyncio.sleep(odd.every_s)

    async def stop_following(self) -> None:
        """Stop watching the orders that are still not settled."""
        if self._following:
            await asyncio.wait(self._following, timeout=_LAST_ANSWERS_S)
        for follower in self._following:
            follower.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    async def place(self, odd: OddOrders | None = None) -> None:
        """One customer. What goes wrong is written down, not raised."""
        random = self._random
        request_id = str(uuid.UUID(int=random.getrandbits(128), version=4))
        begun_s = self._clock()
        try:
            order = await self._client.create_order(
                request_id=request_id,
                customer_id=f"customer-{random.randrange(100)}",
                items=self._large_items() if odd is not None and odd.large else self._items(),
                payment_token=(odd or _USUAL).payment_token,
            )
        except Overloaded:
            outcome = REFUSED
        except OrderflowError as error:
            outcome = error.reason or error.code.name
        else:
            await self._acknowledged(order, begun_s, odd=odd is not None)
            return
        self._write_down(self._recording.calls, begun_s, outcome)

    async def _acknowledged(self, order: order_pb2.Order, begun_s: float, *, odd: bool) -> None:
        self._write_down(self._recording.calls, begun_s, OK)
        self.acknowledged.append(order.id)
        now_s = self._clock()
        inline = order.state not in UNSETTLED_STATES
        placed = Placed(
            begun_s=begun_s,
            acknowledged_s=now_s,
            odd=odd,
            inline=inline,
            settled_s=now_s if inline else None,
        )
        self._recording.orders[order.id] = placed
        if self._follow and not inline:
            follower = asyncio.create_task(self._settled(order.id, placed))
            self._following.add(follower)
            follower.add_done_callback(self._following.discard)
        if self._read_back:
            await self._read(order.id)

    async def _settled(self, order_id: str, placed: Placed) -> None:
        with suppress(OrderflowError):  # The recording says that it was not seen.
            await self._client.wait_until_settled(order_id, timeout_s=_FOLLOW_TIMEOUT_S)
            placed.settled_s = self._clock()

    async def _read(self, order_id: str) -> None:
        begun_s = self._clock()
        try:
            await self._client.get_order(order_id)
        except OrderflowError as error:
            outcome = error.code.name
        else:
            outcome = OK
        self._write_down(self._recording.reads, begun_s, outcome)

    def _write_down(self, calls: list[Call], begun_s: float, outcome: str) -> None:
        calls.append(Call(begun_s=begun_s, took_s=self._clock() - begun_s, outcome=outcome))

    def _items(self) -> Sequence[order_pb2.OrderItem]:
        random = self._random
        return [
            item(f"SKU-{random.randrange(1000)}", random.randint(1, 5), money("12.50", "EUR"))
            for _ in range(random.randint(1, 4))
        ]

    def _large_items(self) -> Sequence[order_pb2.OrderItem]:
        return [
            item(f"{number:03}".ljust(_LONGEST_SKU, "X"), 1, money("12.50", "EUR"))
            for number in range(_MOST_ITEMS)
        ]


_USUAL = OddOrders(count=1)
