"""The order: what it is made of, the states it goes through, and nothing about how it is stored."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from orderflow_server.orders.errors import IllegalTransition, InvalidOrder
from orderflow_server.orders.ids import text_of
from orderflow_server.orders.money import Money, MoneyError
from orderflow_server.orders.value import Value


class OrderState(enum.StrEnum):
    """How far an order is. `TRANSITIONS` says what may follow what."""

    PENDING_PAYMENT = "PENDING_PAYMENT"
    PAID = "PAID"
    PAYMENT_DECLINED = "PAYMENT_DECLINED"
    REFUNDING = "REFUNDING"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Nothing can follow."""
        return not TRANSITIONS[self]

    @property
    def awaits_gateway(self) -> bool:
        """The payment gateway has to be asked before the order can rest."""
        return self in _AWAITING_GATEWAY


TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = {
    OrderState.PENDING_PAYMENT: frozenset(
        {OrderState.PAID, OrderState.PAYMENT_DECLINED, OrderState.CANCELLED}
    ),
    OrderState.PAID: frozenset({OrderState.REFUNDING}),
    OrderState.PAYMENT_DECLINED: frozenset(),
    OrderState.REFUNDING: frozenset({OrderState.CANCELLED}),
    OrderState.CANCELLED: frozenset(),
}
_AWAITING_GATEWAY = frozenset({OrderState.PENDING_PAYMENT, OrderState.REFUNDING})


class OrderItem(Value, frozen=True, gc=False):
    """One line of an order: `quantity` pieces of `sku` at `unit_price` each."""

    sku: str
    quantity: int
    unit_price: Money


class OrderDraft(Value, frozen=True, gc=False):
    """What a caller asks for: an order that is not placed yet.

    Attributes:
        request_id: Makes placing idempotent: one order per request id.
        payment_token: The payment method's token at the gateway. Kept out of `repr`.
    """

    request_id: UUID
    customer_id: str
    items: tuple[OrderItem, ...]
    payment_token: str

    secret = frozenset({"payment_token"})


class Order(Value, frozen=True, gc=False, kw_only=True):
    """An order at one version. Immutable: a change makes the next version.

    Attributes:
        content_hash: Identifies the draft: equal for equal content, whatever the request id.
        version: 1 when placed, one more with each change.
        decline_reason: The gateway's words; empty unless the payment was declined.
        traceparent: The trace in which it was placed, as W3C Trace Context writes it; empty when
            there was none. What is done for the order later on belongs there too.
    """

    id: UUID
    request_id: UUID
    customer_id: str
    items: tuple[OrderItem, ...]
    total: Money
    payment_token: str
    content_hash: bytes
    state: OrderState
    version: int
    decline_reason: str
    create_time: datetime
    update_time: datetime
    traceparent: str = ""

    secret = frozenset({"payment_token", "content_hash"})

    @classmethod
    def place(
        cls, draft: OrderDraft, *, order_id: UUID, now: datetime, traceparent: str = ""
    ) -> Order:
        """The first version of a new order.

        Raises:
            InvalidOrder: No items, a quantity below 1, mixed currencies, or a total too large.
        """
        if not draft.items:
            raise InvalidOrder("items", "an order needs at least one item")
        currency_code = draft.items[0].unit_price.currency_code
        for index, item in enumerate(draft.items):
            if item.quantity < 1:
                raise InvalidOrder(f"items[{index}].quantity", "the quantity must be at least 1")
            if item.unit_price.currency_code != currency_code:
                raise InvalidOrder(
                    f"items[{index}].unit_price.currency_code",
                    f"all items must have the same currency, the first has {currency_code}",
                )
        try:
            total = Money.total((item.quantity, item.unit_price) for item in draft.items)
        except MoneyError as error:
            raise InvalidOrder("items", f"the total is not possible: {error}") from error
        return cls(
            id=order_id,
            request_id=draft.request_id,
            customer_id=draft.customer_id,
            items=draft.items,
            total=total,
            payment_token=draft.payment_token,
            content_hash=_content_hash(draft),
            state=OrderState.PENDING_PAYMENT,
            version=1,
            decline_reason="",
            create_time=now,
            update_time=now,
            traceparent=traceparent,
        )

    @property
    def payment_key(self) -> str:
        """The idempotency key of this order's payment: at most one charge, for ever."""
        return f"order-{text_of(self.id)}"

    def paid(self, now: datetime) -> Order:
        return self._become(OrderState.PAID, now)

    def declined(self, reason: str, now: datetime) -> Order:
        return self._become(OrderState.PAYMENT_DECLINED, now, reason)

    def refunding(self, now: datetime) -> Order:
        return self._become(OrderState.REFUNDING, now)

    def cancelled(self, now: datetime) -> Order:
        return self._become(OrderState.CANCELLED, now)

    def _become(self, state: OrderState, now: datetime, decline_reason: str = "") -> Order:
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(self.id, self.state, state)
        # A clock that was set back must not make an order younger than it was.
        return self._at(state, self.version + 1, decline_reason, max(now, self.update_time))

    def at(self, change: OrderChange) -> Order:
        """This order as it was, or will be, after `change`."""
        return self._at(change.state, change.version, change.decline_reason, change.time)

    def _at(self, state: OrderState, version: int, decline_reason: str, time: datetime) -> Order:
        # Written out: every order is paid, and `msgspec.structs.replace` takes longer.
        return Order(
            id=self.id,
            request_id=self.request_id,
            customer_id=self.customer_id,
            items=self.items,
            total=self.total,
            payment_token=self.payment_token,
            content_hash=self.content_hash,
            state=state,
            version=version,
            decline_reason=decline_reason,
            create_time=self.create_time,
            update_time=time,
            traceparent=self.traceparent,
        )


class OrderChange(Value, frozen=True, gc=False, kw_only=True):
    """What one version of an order changed; all the rest of an order never changes."""

    order_id: UUID
    version: int
    state: OrderState
    decline_reason: str
    time: datetime


class OrderQuery(Value, frozen=True, gc=False, kw_only=True):
    """Which orders to read, newest first.

    Attributes:
        limit: The most orders to return.
        before: Only orders with a smaller id; where the page before ended.
        customer_id: Only this customer's. None: everybody's.
        states: Only in one of these. Empty: in any.
        created_after: Only created at or after. None: no bound.
        created_before: Only created before. None: no bound.
    """

    limit: int
    before: UUID | None = None
    customer_id: str | None = None
    states: Sequence[OrderState] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None


def _content_hash(draft: OrderDraft) -> bytes:
    """SHA-256 over every field of the draft but the request id, each with its length first."""
    parts = [draft.customer_id, draft.payment_token]
    for item in draft.items:
        price = item.unit_price
        amount = f"{item.quantity} {price.units} {price.nanos}"
        parts += (item.sku, price.currency_code, amount)
    content = bytearray()
    for part in parts:
        encoded = part.encode()
        content += len(encoded).to_bytes(4)
        content += encoded
    return hashlib.sha256(content).digest()
