"""An event as a CloudEvent in a NATS message, in binary mode: attributes as headers.

Sources: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md and, for the names of
the headers, the binding to NATS; it knows binary mode since 1.0.3:
https://github.com/cloudevents/spec/blob/main/cloudevents/bindings/nats-protocol-binding.md
"""

from __future__ import annotations

from collections.abc import Mapping

from orderflow_server.events.ports import event_id
from orderflow_server.orders.order import Order

SOURCE = "/orderflow/orders"
CONTENT_TYPE = "application/protobuf"


def headers(order: Order) -> Mapping[str, str]:
    """The attributes of the event of this version, and the trace that the order was placed in."""
    attributes = {
        "ce-specversion": "1.0",
        "ce-id": event_id(order),
        "ce-source": SOURCE,
        "ce-type": f"orderflow.v1.order.{order.state.value.lower()}",
        "ce-subject": str(order.id),
        "ce-time": order.update_time.isoformat(),
        "ce-datacontenttype": CONTENT_TYPE,
        # Says to who looks for it there that the mode is not the structured one.
        "content-type": CONTENT_TYPE,
    }
    if order.traceparent:
        attributes["traceparent"] = order.traceparent
    return attributes
