"""The client of Orderflow.

from orderflow_client import OrderClient, item, money

async with OrderClient("127.0.0.1:50051") as client:
    order = await client.create_order(
        customer_id="customer-1",
        items=[item("SKU-1", 2, money("12.50", "EUR"))],
        payment_token="tok_visa",
    )
"""

from orderflow_client.bearer import TokenSource
from orderflow_client.channel import open_channel
from orderflow_client.client import ORDER_CONTRACT, OrderClient, item
from orderflow_client.contract import ContractError, MethodContract, contracts
from orderflow_client.errors import (
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OrderflowError,
    Overloaded,
    PermissionDenied,
    ServerError,
    Unavailable,
)
from orderflow_client.money import money, to_decimal
from orderflow_client.resilience.breaker import BreakerOptions
from orderflow_client.resilience.deadline import Deadline
from orderflow_client.resilience.events import (
    BreakerChanged,
    HedgeStarted,
    Listener,
    PolicyEvent,
    RetryScheduled,
)
from orderflow_client.tls import ClientTls

__all__ = [
    "ORDER_CONTRACT",
    "BreakerChanged",
    "BreakerOptions",
    "Cancelled",
    "ClientTls",
    "Conflict",
    "ContractError",
    "Deadline",
    "DeadlineExceeded",
    "HedgeStarted",
    "InvalidRequest",
    "Listener",
    "MethodContract",
    "NotFound",
    "OrderClient",
    "OrderflowError",
    "Overloaded",
    "PermissionDenied",
    "PolicyEvent",
    "RetryScheduled",
    "ServerError",
    "TokenSource",
    "Unavailable",
    "contracts",
    "item",
    "money",
    "open_channel",
    "to_decimal",
]
