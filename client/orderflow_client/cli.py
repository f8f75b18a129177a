"""The `orderflow` command: places, shows, lists, cancels and watches orders, and their events.

Exit codes: 0 done; 1 an error; 2 wrong usage, or a request the server refused as invalid;
3 not found; 4 the server is unavailable, overloaded, not serving or too slow; 130 Ctrl-C.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from enum import StrEnum
from random import Random
from typing import Annotated
from uuid import UUID

import typer

from orderflow.payments.v1 import payment_gateway_pb2
from orderflow.v1 import order_pb2, order_service_pb2
from orderflow_client import output
from orderflow_client.client import UNSETTLED_STATES, OrderClient, item
from orderflow_client.connecting import Connection, connecting
from orderflow_client.contract import contracts
from orderflow_client.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    OrderflowError,
    Overloaded,
    Unavailable,
)
from orderflow_client.money import money
from orderflow_client.service_config import service_config

_DEFAULT_NATS = "nats://127.0.0.1:4222"
_EXIT_ERROR = 1
_EXIT_UNAVAILABLE = 4
_EXIT_CODES: dict[type[OrderflowError], int] = {
    InvalidRequest: 2,
    NotFound: 3,
    Unavailable: _EXIT_UNAVAILABLE,
    Overloaded: _EXIT_UNAVAILABLE,
    DeadlineExceeded: _EXIT_UNAVAILABLE,
}
_EPILOG = (
    "Exit codes: 0 done; 1 an error; 2 wrong usage or an invalid request; 3 not found; "
    "4 unavailable, overloaded, not serving or too slow; 130 Ctrl-C."
)

app = typer.Typer(
    help="Talk to an Orderflow server.",
    epilog=_EPILOG,
    no_args_is_help=True,
    # A traceback must not print a payment token.
    pretty_exceptions_show_locals=False,
)
orders = typer.Typer(help="Place, show, list, cancel and watch orders.", no_args_is_help=True)
app.add_typer(orders, name="order")
events = typer.Typer(help="Follow the events of orders on NATS.", no_args_is_help=True)
app.add_typer(events, name="events")

OrderId = Annotated[str, typer.Argument(metavar="ORDER_ID", help="The id of the order.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


class State(StrEnum):
    """The states an order can be in, as they are typed."""

    PENDING_PAYMENT = "pending-payment"
    PAID = "paid"
    PAYMENT_DECLINED = "payment-declined"
    REFUNDING = "refunding"
    CANCELLED = "cancelled"

    @property
    def message_value(self) -> order_pb2.OrderState.ValueType:
        return order_pb2.OrderState.Value(f"ORDER_STATE_{self.name}")


class Service(StrEnum):
    """The services whose policies can be printed, as they are typed."""

    ORDERS = "orderflow.v1.OrderService"
    PAYMENTS = "payments"


_DESCRIPTORS = {
    Service.ORDERS: order_service_pb2.DESCRIPTOR.services_by_name["OrderService"],
    Service.PAYMENTS: payment_gateway_pb2.DESCRIPTOR.services_by_name["PaymentGateway"],
}


@orders.command()
@connecting
def create(
    connection: Connection,
    customer: Annotated[str, typer.Option(help="Who the order is for.")],
    items: Annotated[
        list[str],
        typer.Option("--item", metavar="SKU:QTY:PRICE", help="What is ordered. May be repeated."),
    ],
    payment_token: Annotated[
        str,
        typer.Option(
            envvar="ORDERFLOW_PAYMENT_TOKEN",
            help="What to charge. On a shared machine, better given in the environment.",
        ),
    ],
    currency: Annotated[str, typer.Option(help="The currency of the prices, ISO 4217.")] = "EUR",
    request_id: Annotated[
        str | None,
        typer.Option(help="A UUID: the same one again is the same order. Default: a new one."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the payment is known.")] = False,
    as_json: AsJson = False,
) -> None:
    """Place an order and pay it."""
    order_items = [_parse_item(text, currency) for text in items]

    async def command(client: OrderClient) -> None:
        order = await client.create_order(
            customer_id=customer,
            items=order_items,
            payment_token=payment_token,
            request_id=request_id,
        )
        if wait and order.state in UNSETTLED_STATES:
            with output.waiting(f"waiting for the payment of order {order.id}"):
                order = await client.wait_until_settled(order.id)
        output.order(order, as_json=as_json)

    _run(command, connection)


@orders.command()
@connecting
def get(connection: Connection, order_id: OrderId, as_json: AsJson = False) -> None:
    """Show one order."""

    async def command(client: OrderClient) -> None:
        output.order(await client.get_order(order_id), as_json=as_json)

    _run(command, connection)


@orders.command()
@connecting
def cancel(connection: Connection, order_id: OrderId, as_json: AsJson = False) -> None:
    """Cancel an order; a paid one is refunded."""

    async def command(client: OrderClient) -> None:
        output.order(await client.cancel_order(order_id), as_json=as_json)

    _run(command, connection)


@orders.command("list")
@connecting
def list_orders(
    connection: Connection,
    customer: Annotated[str, typer.Option(help="Only this customer's.")] = "",
    states: Annotated[
        list[State] | None,
        typer.Option("--state", case_sensitive=False, help="Only in this state. May be repeated."),
    ] = None,
    page_size: Annotated[
        int, typer.Option(min=0, max=1000, help="Orders per page. 0: the server chooses.")
    ] = 0,
    page_token: Annotated[str, typer.Option(help="Where the page before ended.")] = "",
    every_page: Annotated[bool, typer.Option("--all", help="Every page, not just one.")] = False,
    as_json: AsJson = False,
) -> None:
    """List orders, newest first."""
    wanted = [state.message_value for state in states or ()]

    async def command(client: OrderClient) -> None:
        token = page_token
        listing = output.OrderList(as_json=as_json)
        while True:
            page = await client.list_orders_page(
                customer_id=customer, states=wanted, page_size=page_size, page_token=token
            )
            listing.add(page.orders)
            token = page.next_page_token
            if not token or not every_page:
                break
        if token:
            output.note(f"more: --page-token {token}")

    _run(command, connection)


@orders.command()
@connecting
def watch(
    connection: Connection,
    order_id: OrderId,
    until_final: Annotated[
        bool, typer.Option("--until-final", help="Go on after PAID, which can be cancelled.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show an order and each change of it, until it is paid or final."""

    async def command(client: OrderClient) -> None:
        async for order in client.watch_order(order_id):
            output.change(order, as_json=as_json)
            if order.state == order_pb2.ORDER_STATE_PAID and not until_final:
                break

    _run(command, connection)


@events.command()
def tail(
    servers: Annotated[
        str,
        typer.Option(
            "--nats", envvar="ORDERFLOW_NATS", help="NATS, URLs separated by commas if several."
        ),
    ] = _DEFAULT_NATS,
    order_id: Annotated[
        UUID | None, typer.Option("--order", metavar="ORDER_ID", help="Only this order's.")
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="First all that the stream has kept.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show each change of each order as it is published, once, until Ctrl-C."""
    try:
        from orderflow_client.events import order_events
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "nats":
            raise
        output.note(
            "this command needs nats-py; install it with\n  pip install 'orderflow-client[events]'"
        )
        raise typer.Exit(_EXIT_ERROR) from error
    tailed = order_events(servers.split(","), order_id=str(order_id or "*"), from_start=from_start)

    async def command() -> None:
        async with aclosing(tailed):
            async for event in tailed:
                output.event(event, as_json=as_json)

    _await(command())


@app.command()
@connecting
def health(
    connection: Connection,
    service: Annotated[str, typer.Argument(help="Which service. Default: all of them.")] = "",
) -> None:
    """Ask the server how it is; exit code 0 means SERVING."""

    async def command(client: OrderClient) -> None:
        status = await client.health(service)
        typer.echo(status)
        if status != "SERVING":
            raise typer.Exit(_EXIT_UNAVAILABLE)

    _run(command, connection)


@app.command()
@connecting
def load(
    connection: Connection,
    rate: Annotated[float, typer.Option(min=0.1, help="Customers a second.")] = 20.0,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="For how long they come. Default: until Ctrl-C.")
    ] = math.inf,
    seed: Annotated[int, typer.Option(help="Of what they order.")] = 0,
) -> None:
    """Send customers who place orders, look at them, and now and then list or cancel them."""
    # What it counts with would slow the other commands.
    from orderflow_client.load import report_load

    async def command(client: OrderClient) -> None:
        await report_load(
            client,
            rate=rate,
            seconds=seconds,
            random=Random(seed),
            clock=time.monotonic,
            tell=typer.echo,
        )

    _run(command, connection)


@app.command("service-config")
def print_service_config(
    service: Annotated[Service, typer.Option(help="Whose policies.")] = Service.ORDERS,
) -> None:
    """Print the policies as a gRPC service config (JSON), for clients in other languages.

    A service config cannot say: the deadline of an attempt, a retry of RESOURCE_EXHAUSTED when
    the server says after how long, more than 5 attempts, hedging beside retries, breakers.
    """
    # A payment gateway is somebody else's, and need not tell of its health.
    health_service = service.value if service is Service.ORDERS else None
    config = service_config(contracts(_DESCRIPTORS[service]), health_service=health_service)
    typer.echo(json.dumps(config, indent=2))


def _run(command: Callable[[OrderClient], Awaitable[None]], connection: Connection) -> None:
    async def connected() -> None:
        async with connection.open() as client:
            await command(client)

    _await(connected())


def _await(command: Coroutine[None, None, None]) -> None:
    try:
        asyncio.run(command)
    except OrderflowError as error:
        output.error(error)
        raise typer.Exit(_EXIT_CODES.get(type(error), _EXIT_ERROR)) from error


def _parse_item(text: str, currency: str) -> order_pb2.OrderItem:
    # From the right: a SKU may have colons.
    parts = text.rsplit(":", 2)
    if len(parts) != 3:
        raise typer.BadParameter(f"{text!r} is not SKU:QTY:PRICE", param_hint="--item")
    sku, quantity, price = parts
    try:
        return item(sku, int(quantity), money(price, currency))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint="--item") from error
