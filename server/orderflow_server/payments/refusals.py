"""Refusals that hit many orders: a fault of the gateway, not of the orders."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import grpc

from orderflow_client.resilience.deadline import MonotonicClock
from orderflow_client.resilience.window import SlidingCount

WIDESPREAD_ORDERS = 5
"""So many different orders refused in the window are no coincidence."""
WIDESPREAD_RATIO = 0.2
"""Nor are they when they are this share of all orders that were asked about."""
WINDOW_S = 10.0
ANSWERS_TO_END = 5
"""So many answers in a row, and the gateway refuses no more."""
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True)
class RefusalsWidespread:
    """The gateway began to refuse, or stopped refusing, order after order.

    Attributes:
        active: It refuses them now.
        code: The status of the latest refusal.
    """

    active: bool
    code: grpc.StatusCode


class RefusalWatch:
    """Distinguishes a refused order from a gateway that refuses many of them.

    Refusals are widespread once `WIDESPREAD_ORDERS` different orders were refused within
    `WINDOW_S`, and with them `WIDESPREAD_RATIO` of all, until `ANSWERS_TO_END` answers in a row.
    Meanwhile, and for `WINDOW_S` after it, no order is to be parked for a refusal, and the worker
    pauses: for a second at first, twice as long after each further refusal, up to half a minute.

    Args:
        listener: Called on each change.
        clock: Measures the window and the pauses.
    """

    def __init__(
        self,
        listener: Callable[[RefusalsWidespread], None],
        *,
        clock: MonotonicClock = time.monotonic,
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._refused_at_s: dict[UUID, float] = {}
        self._asked = SlidingCount(WINDOW_S, buckets=10, clock=clock)
        self._answers_in_a_row = 0
        self._widespread = False
        self._code = grpc.StatusCode.UNKNOWN
        self._ended_at_s = -math.inf
        self._pause_s = _FIRST_PAUSE_S
        self._paused_until_s = 0.0

    def refused(self, order_id: UUID, code: grpc.StatusCode) -> None:
        """Record that the gateway refused an order."""
        now_s = self._clock()
        self._code = code
        self._answers_in_a_row = 0
        self._asked.add(marked=True)
        self._refused_at_s.pop(order_id, None)
        self._refused_at_s[order_id] = now_s
        while now_s - next(iter(self._refused_at_s.values())) >= WINDOW_S:
            del self._refused_at_s[next(iter(self._refused_at_s))]
        if not self._widespread:
            asked, refused = self._asked.counts()
            if len(self._refused_at_s) < WIDESPREAD_ORDERS or refused < asked * WIDESPREAD_RATIO:
                return
            self._widespread = True
            self._listener(RefusalsWidespread(True, code))
        if now_s >= self._paused_until_s:
            self._paused_until_s = now_s + self._pause_s
            self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)

    def answered(self) -> None:
        """Record that the gateway answered an order."""
        self._asked.add()
        if not self._widespread:
            return
        self._paused_until_s = 0.0
        self._answers_in_a_row += 1
        if self._answers_in_a_row >= ANSWERS_TO_END:
            self._widespread = False
            self._refused_at_s.clear()
            self._asked.clear()
            self._ended_at_s = self._clock()
            self._pause_s = _FIRST_PAUSE_S
            self._listener(RefusalsWidespread(False, self._code))

    @property
    def widespread(self) -> bool:
        """Whether the gateway refuses order after order."""
        return self._widespread

    @property
    def blames_orders(self) -> bool:
        """Whether a refusal may be taken for the order's own fault."""
        return not self._widespread and self._clock() - self._ended_at_s >= WINDOW_S

    @property
    def pause_left_s(self) -> float:
        """Seconds for which the worker should not ask; 0: it may."""
        return max(0.0, self._paused_until_s - self._clock())
