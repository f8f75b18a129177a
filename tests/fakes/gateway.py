"""A `PaymentGateway` with true books and a script of what goes wrong.

However a call ends, the ledger says what became of the money: that is what a test of the
callers can compare their orders with.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import grpc

from orderflow_client.resilience import deadline
from orderflow_client.resilience.deadline import Deadline
from orderflow_server.orders.errors import PaymentUnresolved
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import Clock, Payment, PaymentState
from orderflow_server.payments.gateway import PaymentRefused
from orderflow_server.payments.simulator.ledger import Ledger, LedgerError, LedgerPayment


class Trouble(enum.Enum):
    """What may become of a call."""

    NONE = enum.auto()
    UNREACHABLE = enum.auto()
    """Nothing is done; the caller cannot know."""
    ANSWER_LOST = enum.auto()
    """It is done; the caller cannot know."""
    REFUSED = enum.auto()
    """Nothing is done, and the caller is told so."""
    HANG = enum.auto()
    """Nothing is done until `release`; without it the caller's deadline passes."""
    HANG_ANSWER = enum.auto()
    """It is done at once, and answered after `release`; or the caller's deadline passes."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that arrived.

    Attributes:
        deadline: The ambient one when it arrived.
    """

    method: str
    order_id: UUID
    deadline: Deadline | None


class FakeGateway:
    """Answers truthfully, but for the troubles it is told to have.

    Attributes:
        calls: Every call, in the order of arrival.
        decline_reason: Why new charges are declined; empty: they are charged.
    """

    def __init__(self, now: Clock) -> None:
        self.ledger = Ledger(now)
        self.calls: list[Call] = []
        self.decline_reason = ""
        self._script: deque[Trouble] = deque()
        self._released = asyncio.Event()

    def next(self, *troubles: Trouble) -> None:
        """What becomes of the next calls, one each; past the last one all goes well."""
        self._script.extend(troubles)

    def heal(self) -> None:
        """Forgets the rest of the script: from now on all goes well."""
        self._script.clear()

    def release(self) -> None:
        """Lets go of every call that hangs, those to come included."""
        self._released.set()

    @property
    def methods(self) -> list[str]:
        """What was called, in order."""
        return [call.method for call in self.calls]

    def state_of(self, order: Order) -> PaymentState:
        """What became of the order's payment, in truth."""
        return self.ledger.get(order.payment_key).state

    async def find(self, order: Order) -> Payment | None:
        try:
            return await self._answer("find", order, lambda: self.ledger.get(order.payment_key))
        except PaymentRefused as error:
            if error.reason == "LEDGER":
                return None
            raise

    async def charge(self, order: Order) -> Payment:
        return await self._answer(
            "charge",
            order,
            lambda: self.ledger.charge(
                order.payment_key,
                reference=str(order.id),
                amount=order.total,
                decline_reason=self.decline_reason,
            ),
        )

    async def refund(self, order: Order) -> Payment:
        return await self._answer("refund", order, lambda: self.ledger.refund(order.payment_key))

    async def void(self, order: Order) -> Payment:
        return await self._answer(
            "void",
            order,
            lambda: self.ledger.void(order.payment_key, reference=str(order.id)),
        )

    async def _answer(self, method: str, order: Order, do: Callable[[], LedgerPayment]) -> Payment:
        self.calls.append(Call(method, order.id, deadline.current()))
        trouble = self._script.popleft() if self._script else Trouble.NONE
        if trouble is Trouble.UNREACHABLE:
            raise PaymentUnresolved(order.id) from ConnectionError("connection refused")
        if trouble is Trouble.REFUSED:
            raise PaymentRefused(order.id, grpc.StatusCode.INVALID_ARGUMENT, "AS_TOLD")
        if trouble is Trouble.HANG:
            await self._release_of(order)
        try:
            payment = do()
        except LedgerError as error:
            if trouble is Trouble.ANSWER_LOST:
                raise PaymentUnresolved(order.id) from ConnectionResetError("connection reset")
            code = grpc.StatusCode.FAILED_PRECONDITION
            raise PaymentRefused(order.id, code, "LEDGER") from error
        if trouble is Trouble.ANSWER_LOST:
            raise PaymentUnresolved(order.id) from ConnectionResetError("connection reset")
        if trouble is Trouble.HANG_ANSWER:
            await self._release_of(order)
        return Payment(payment.state, payment.decline_reason)

    async def _release_of(self, order: Order) -> None:
        try:
            async with asyncio.timeout(deadline.remaining_s()):
                await self._released.wait()
        except TimeoutError as error:
            raise PaymentUnresolved(order.id) from error
