"""What the `orderflow` command prints: tables for people, JSON for programs, errors on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orderflow.v1 import order_event_pb2, order_pb2
from orderflow_client.errors import OrderflowError
from orderflow_client.money import to_decimal

_UUID_CHARACTERS = 36
_ROOMY_COLUMNS = 110
"""Terminals that are narrower get narrower columns, and rows of two lines."""
_out = Console()
_err = Console(stderr=True)

_STYLES = {
    order_pb2.ORDER_STATE_PENDING_PAYMENT: "yellow",
    order_pb2.ORDER_STATE_PAID: "green",
    order_pb2.ORDER_STATE_PAYMENT_DECLINED: "red",
    order_pb2.ORDER_STATE_REFUNDING: "yellow",
}


def order(value: order_pb2.Order, *, as_json: bool) -> None:
    """Prints one order with its items."""
    if as_json:
        _json(value)
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_row("order", value.id)
    facts.add_row("customer", Text(value.customer_id))
    facts.add_row("state", _state(value))
    if value.decline_reason:
        facts.add_row("declined", Text(value.decline_reason))
    facts.add_row("total", _amount(value.total))
    facts.add_row("placed", _time(value))
    facts.add_row("request id", value.request_id)
    items = Table("sku")
    items.add_column("quantity", justify="right")
    items.add_column("unit price", justify="right")
    for line in value.items:
        items.add_row(Text(line.sku), str(line.quantity), _amount(line.unit_price))
    _out.print(facts)
    _out.print(items)


def change(value: order_pb2.Order, *, as_json: bool) -> None:
    """Prints one version of an order on one line."""
    if as_json:
        _json(value)
        return
    _out.print(_change(value), soft_wrap=True)


def event(value: order_event_pb2.OrderEvent, *, as_json: bool) -> None:
    """Prints one event of any order on one line."""
    if as_json:
        _json(value)
        return
    _out.print(Text(f"{value.order.id}  ").append_text(_change(value.order)), soft_wrap=True)


class OrderList:
    """Prints orders as they arrive, each page of them at once: none is kept.

    Args:
        as_json: One object per line. Else rows of one table, whose columns are as wide as the
            terminal has room for, whatever is in them.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._header = True

    def add(self, orders: Iterable[order_pb2.Order]) -> None:
        if self._as_json:
            for value in orders:
                _json(value)
            return
        table = self._table()
        for value in orders:
            table.add_row(
                value.id, _state(value), _time(value), _amount(value.total), Text(value.customer_id)
            )
        _out.print(table)

    def _table(self) -> Table:
        """Under the rows that were printed before: the same columns, the header only once."""
        table = Table(
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 1, 0, 0),
            show_header=self._header,
            width=_out.width,
        )
        self._header = False
        narrow = _out.width < _ROOMY_COLUMNS
        # The id is never cut off, however narrow the terminal: it is there to be copied.
        table.add_column("order", no_wrap=True, width=_UUID_CHARACTERS)
        table.add_column("state", overflow="fold", width=9 if narrow else len("PAYMENT_DECLINED"))
        table.add_column(
            "placed", overflow="fold", width=10 if narrow else len("2026-01-01 00:00:00Z")
        )
        table.add_column("total", overflow="fold", justify="right", width=9 if narrow else 16)
        table.add_column("customer", overflow="fold", ratio=1)
        return table


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on stderr that something is waited for, when that is a terminal."""
    with _err.status(what):
        yield


def note(text: str) -> None:
    """Prints a hint that is no part of the output."""
    _err.print(Text(text), soft_wrap=True)


def error(value: OrderflowError) -> None:
    """Prints why a call failed, and one line for each rule it broke."""
    _err.print(
        Text("error: ", style="bold red").append(str(value), style="default"), soft_wrap=True
    )
    for field, description in value.violations:
        _err.print(Text(f"  - {field}: {description}" if field else f"  - {description}"))
    if value.retry_delay_s is not None:
        _err.print(Text(f"  try again in {value.retry_delay_s:.1f} s"))
    if value.request_id:
        _err.print(Text(f"  request id {value.request_id}"))
    if value.trace_id:
        _err.print(Text(f"  trace id {value.trace_id}"))


def _json(value: Message) -> None:
    typer.echo(json_format.MessageToJson(value, indent=None))


def _change(value: order_pb2.Order) -> Text:
    updated = value.update_time.ToJsonString()
    line = Text(f"{updated}  version {value.version}  ").append_text(_state(value))
    if value.decline_reason:
        line.append(f"  {value.decline_reason}")
    return line


def _state(value: order_pb2.Order) -> Text:
    name = order_pb2.OrderState.Name(value.state).removeprefix("ORDER_STATE_")
    return Text(name, style=_STYLES.get(value.state, ""))


def _amount(value: Money) -> str:
    return f"{to_decimal(value):,f} {value.currency_code}"


def _time(value: order_pb2.Order) -> str:
    return f"{value.create_time.ToDatetime():%Y-%m-%d %H:%M:%S}Z"
