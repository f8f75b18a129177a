"""What the `orderflow` command prints: tables for people, JSON for programs, errors on stderr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from google.type.money_pb2 import Money
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from orderflow.v1 import order_event_pb2, order_pb2
from orderflow_client.errors import OrderflowError
from orderflow_client.money import to_decimal

_UUID_CHARACTERS = 36
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
    """Prints orders as they arrive (JSON) or, at the end, as one table.

    Args:
        as_json: One object per line.
        show_progress: Count on stderr, when people wait in front of a terminal.
    """

    def __init__(self, *, as_json: bool, show_progress: bool) -> None:
        self._as_json = as_json
        # The id is never cut off, however narrow the terminal: it is there to be copied.
        self._table = Table(box=SIMPLE_HEAD, pad_edge=False)
        self._table.add_column("order", no_wrap=True, min_width=_UUID_CHARACTERS)
        self._table.add_column("state", overflow="fold")
        self._table.add_column("placed", overflow="fold", min_width=len("2026-01-01"))
        self._table.add_column("total", justify="right", no_wrap=True)
        self._table.add_column("customer", overflow="fold")
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.completed} orders"),
            console=_err,
            transient=True,
            disable=not show_progress or as_json or not _out.is_terminal,
        )
        self._task = self._progress.add_task("orders", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def add(self, orders: Iterable[order_pb2.Order]) -> None:
        for value in orders:
            if self._as_json:
                _json(value)
            else:
                self._table.add_row(
                    value.id,
                    _state(value),
                    _time(value),
                    _amount(value.total),
                    Text(value.customer_id),
                )
            self._progress.advance(self._task)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if exc is None and not self._as_json:
            _out.print(self._table)


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
