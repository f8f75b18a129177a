"""The payload of an event: the contract's, like everything that leaves the service."""

from __future__ import annotations

from orderflow.v1 import order_event_pb2
from orderflow_server.orders.order import Order
from orderflow_server.rpc.convert import order_message


def encode_order_event(event_id: str, order: Order) -> bytes:
    """An `orderflow.v1.OrderEvent`: everything that a caller of the service may see."""
    return order_event_pb2.OrderEvent(
        event_id=event_id, order=order_message(order)
    ).SerializeToString()
