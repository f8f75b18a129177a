"""The payload of an event: the contract's, like everything that leaves the service."""

from __future__ import annotations

from orderflow.v1 import order_event_pb2
from orderflow_server.orders.order import Order
from orderflow_server.rpc.convert import write_order


def encode_order_event(event_id: str, order: Order) -> bytes:
    """An `orderflow.v1.OrderEvent`: everything that a caller of the service may see."""
    event = order_event_pb2.OrderEvent(event_id=event_id)
    write_order(event.order, order)
    return event.SerializeToString()
