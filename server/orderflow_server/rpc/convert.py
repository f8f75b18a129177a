"""Messages to domain objects and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.messages import write_money, write_time
from orderflow_server.orders.ids import text_of
from orderflow_server.orders.money import Money, MoneyError
from orderflow_server.orders.order import Order, OrderDraft, OrderItem, OrderQuery, OrderState
from orderflow_server.rpc import page_token
from orderflow_server.rpc.status import InvalidRequest, Violation

DEFAULT_PAGE_SIZE = 50
_LAST_TIME = datetime.max.replace(tzinfo=UTC)

_STATE_TO_MESSAGE: Mapping[OrderState, order_pb2.OrderState.ValueType] = {
    state: order_pb2.OrderState.Value(f"ORDER_STATE_{state.value}") for state in OrderState
}
_STATE_FROM_MESSAGE = {message: state for state, message in _STATE_TO_MESSAGE.items()}


def draft_from(request: pb.CreateOrderRequest) -> OrderDraft:
    """The request must have been validated.

    Raises:
        InvalidRequest: A price is no amount of money; names each that is none.
    """
    items: list[OrderItem] = []
    violations: list[Violation] = []
    for index, item in enumerate(request.items):
        price = item.unit_price
        try:
            money = Money(price.currency_code, price.units, price.nanos)
        except MoneyError as error:
            violations.append(Violation(f"items[{index}].unit_price", str(error)))
        else:
            items.append(OrderItem(item.sku, item.quantity, money))
    if violations:
        raise InvalidRequest(violations)
    return OrderDraft(
        request_id=UUID(request.request_id),
        customer_id=request.customer_id,
        items=tuple(items),
        payment_token=request.payment_token,
    )


def query_from(request: pb.ListOrdersRequest) -> OrderQuery:
    """The request must have been validated.

    Raises:
        InvalidRequest: The page token or a time is not one.
    """
    return OrderQuery(
        limit=request.page_size or DEFAULT_PAGE_SIZE,
        before=page_token.decode(request),
        customer_id=request.customer_id or None,
        states=tuple(_STATE_FROM_MESSAGE[state] for state in request.states),
        created_after=_time_from(request, "created_after"),
        created_before=_time_from(request, "created_before"),
    )


def write_order(
    message: order_pb2.Order, order: Order, items: Iterable[order_pb2.OrderItem] | None = None
) -> None:
    """Fills an empty message with everything a caller may see: not the payment token.

    Into the message where it is to be: one that is handed to another is copied by writing it out
    and reading it again.

    Args:
        message: Where to.
        order: The domain's.
        items: The order's, for who has them as messages: making them is a third of the work.
    """
    message.id = text_of(order.id)
    message.customer_id = order.customer_id
    message.state = _STATE_TO_MESSAGE[order.state]
    if items is None:
        for item in order.items:
            added = message.items.add(sku=item.sku, quantity=item.quantity)
            write_money(added.unit_price, item.unit_price)
    else:
        message.items.extend(items)
    write_money(message.total, order.total)
    message.version = order.version
    write_time(message.create_time, order.create_time)
    write_time(message.update_time, order.update_time)
    message.decline_reason = order.decline_reason
    message.request_id = text_of(order.request_id)


def _time_from(request: pb.ListOrdersRequest, field: str) -> datetime | None:
    """A bound between two microseconds becomes the later one, which bounds the same orders."""
    if not request.HasField(field):  # type: ignore[arg-type]  # the stub wants a literal
        return None
    timestamp: Timestamp = getattr(request, field)
    try:
        time = timestamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            [Violation(field, "must be between the years 1 and 9999, nanos 0 to 999999999")]
        ) from error
    if timestamp.nanos % 1000 and time < _LAST_TIME:
        time += timedelta(microseconds=1)
    return time
