"""What all contracts have in common, written into a message where it is to be.

A message that is handed to another is copied, by writing it out and reading it again.
"""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money as MoneyMessage

from orderflow_server.orders.money import Money

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_PER_DAY = 86_400


def write_money(message: MoneyMessage, money: Money) -> None:
    message.currency_code = money.currency_code
    message.units = money.units
    message.nanos = money.nanos


def write_time(message: Timestamp, time: datetime) -> None:
    """Writes an aware time, in a third of what protobuf's own `FromDatetime` takes."""
    since = time - _EPOCH
    message.seconds = since.days * _SECONDS_PER_DAY + since.seconds
    message.nanos = since.microseconds * 1000
