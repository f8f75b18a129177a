"""What can go wrong with an order, as types.

    OrderError
    ├── InvalidOrder          the caller's data breaks a rule; names the field
    ├── InvalidValue          no store can hold a value of the call
    ├── OrderNotFound         there is no such order
    ├── RequestIdReused       the request id already placed an order with other content
    ├── IllegalTransition     the order's state does not allow it
    ├── VersionConflict       somebody else changed the order first
    ├── DeadlineExpired       the time ran out before the work was started; nothing was done
    ├── StoreOverloaded       the store refuses work; nothing was done
    ├── StoreUnavailable      the store failed; whether the work was done is unknown
    ├── PaymentUnresolved     the gateway gave no answer; whether money moved is unknown
    ├── PaymentInvalid        the gateway's answer does not fit the question
    └── FeedClosed            the server is going away; no more changes are told here

Which status each becomes on the wire is one table, in `orderflow_server.rpc.status`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from orderflow_server.orders.order import OrderState


class OrderError(Exception):
    """Anything that can go wrong with an order."""


class InvalidOrder(OrderError):
    """The caller's data breaks a rule of the domain.

    Attributes:
        field: The path of the field in the request, such as `items[2].unit_price`.
        description: What is wrong with it, as a sentence for the caller.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class InvalidValue(OrderError):
    """A value cannot be stored or searched for: repeating the call cannot help.

    Text must be Unicode without NUL, and a number must be in the range of its column.
    """


class OrderNotFound(OrderError):
    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"there is no order {order_id}")
        self.order_id = order_id


class RequestIdReused(OrderError):
    def __init__(self, request_id: UUID) -> None:
        super().__init__(f"request_id {request_id} already placed an order with other content")
        self.request_id = request_id


class IllegalTransition(OrderError):
    def __init__(self, order_id: UUID, state: OrderState, wanted: OrderState) -> None:
        super().__init__(f"order {order_id} is {state}, it cannot become {wanted}")
        self.order_id = order_id
        self.state = state
        self.wanted = wanted


class VersionConflict(OrderError):
    """The stored order is not at the version the change was made from; nothing was written."""

    def __init__(self, order_id: UUID, version: int) -> None:
        super().__init__(f"order {order_id} changed meanwhile, version {version} is not the next")
        self.order_id = order_id
        self.version = version


class DeadlineExpired(OrderError):
    """The time ran out before the work was started: it was not done and never will be."""


class StoreOverloaded(OrderError):
    """The store refuses work because too much is waiting; nothing was done."""


class StoreUnavailable(OrderError):
    """The store failed. A write may or may not have happened: repeat it idempotently."""


class PaymentUnresolved(OrderError):
    """The gateway gave no usable answer: whether money moved is not known."""

    def __init__(self, order_id: UUID) -> None:
        super().__init__(f"the payment of order {order_id} could not be resolved")
        self.order_id = order_id


class PaymentInvalid(OrderError):
    """The gateway's answer does not fit the question, so nothing it says is believed.

    Attributes:
        problem: The part that does not fit: `message`, `idempotency_key`, `amount`, `currency`
            or `state`.
    """

    def __init__(self, order_id: UUID, problem: str, detail: str) -> None:
        super().__init__(f"payment of order {order_id}: wrong answer of the gateway, {detail}")
        self.order_id = order_id
        self.problem = problem


class FeedClosed(OrderError):
    """The server is going away and tells no more changes."""
