"""Messages to domain objects and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage

from orderflow.v1 import order_pb2
from orderflow.v1 import order_service_pb2 as pb
from orderflow_server.orders.money import Money
from orderflow_server.orders.order import Order, OrderDraft, OrderItem, OrderQuery, OrderState
from orderflow_server.rpc import page_token
from orderflow_server.rpc.status import InvalidRequest, Violation

DEFAULT_PAGE_SIZE = 50
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400
_LAST_TIME = datetime.max.replace(tzinfo=UTC)

_STATE_TO_MESSAGE: Mapping[OrderState, order_pb2.OrderState.ValueType] = {
    state: order_pb2.OrderState.Value(f"ORDER_STATE_{state.value}") for state in OrderState
}
_STATE_FROM_MESSAGE = {message: state for state, message in _STATE_TO_MESSAGE.items()}


def draft_from(request: pb.CreateOrderRequest) -> OrderDraft:
    """The request must have been validated."""
    return OrderDraft(
        request_id=UUID(request.request_id),
        customer_id=request.customer_id,
        items=tuple(
            OrderItem(item.sku, item.quantity, _money_from(item.unit_price))
            for item in request.items
        ),
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


def order_message(
    order: Order, items: Iterable[order_pb2.OrderItem] | None = None
) -> order_pb2.Order:
    """Everything a caller may see: not the payment token.

    Args:
        order: The domain's.
        items: The order's, for who has them as messages: making them is a third of the work.
    """
    return order_pb2.Order(
        id=str(order.id),
        customer_id=order.customer_id,
        state=_STATE_TO_MESSAGE[order.state],
        items=map(_item_message, order.items) if items is None else items,
        total=_money_message(order.total),
        version=order.version,
        create_time=_timestamp(order.create_time),
        update_time=_timestamp(order.update_time),
        decline_reason=order.decline_reason,
        request_id=str(order.request_id),
    )


def _item_message(item: OrderItem) -> order_pb2.OrderItem:
    return order_pb2.OrderItem(
        sku=item.sku, quantity=item.quantity, unit_price=_money_message(item.unit_price)
    )


def _money_from(message: MoneyMessage) -> Money:
    return Money(message.currency_code, message.units, message.nanos)


def _money_message(money: Money) -> MoneyMessage:
    return MoneyMessage(currency_code=money.currency_code, units=money.units, nanos=money.nanos)


def _timestamp(time: datetime) -> Timestamp:
    # protobuf's own FromDatetime takes three times as long.
    since = time - _EPOCH
    return Timestamp(
        seconds=since.days * _SECONDS_PER_DAY + since.seconds, nanos=since.microseconds * 1000
    )


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
