"""The load of a scenario: customers who place an order each, and come whether or not it works."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from random import Random

from orderflow_client import OrderClient, OrderflowError, Overloaded, item, money
from orderflow_server.chaos.recording import OK, REFUSED, Call, Recording

_TICK_S = 0.005


class Load:
    """Places orders at a rate, and writes down what became of each call.

    Args:
        client: What the customers use, as it comes: its retries are part of a call.
        recording: Where the calls go.
        random: What they order, and under which request_id.
        clock: Seconds since the load began.
    """

    def __init__(
        self,
        client: OrderClient,
        recording: Recording,
        *,
        random: Random,
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._recording = recording
        self._random = random
        self._clock = clock
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

    async def place(self) -> None:
        """One customer. What goes wrong is written down, not raised."""
        random = self._random
        request_id = str(uuid.UUID(int=random.getrandbits(128), version=4))
        items = [
            item(f"SKU-{random.randrange(1000)}", random.randint(1, 5), money("12.50", "EUR"))
            for _ in range(random.randint(1, 4))
        ]
        begun_s = self._clock()
        try:
            order = await self._client.create_order(
                request_id=request_id,
                customer_id=f"customer-{random.randrange(100)}",
                items=items,
                payment_token="tok_chaos",  # noqa: S106  not a password, and not a real token
            )
        except Overloaded:
            outcome = REFUSED
        except OrderflowError as error:
            outcome = error.reason or error.code.name
        else:
            outcome = OK
            self.acknowledged.append(order.id)
        self._recording.calls.append(
            Call(begun_s=begun_s, took_s=self._clock() - begun_s, outcome=outcome)
        )
