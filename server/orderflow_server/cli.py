"""The `orderflow-server` command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import grpc
import typer
from pydantic import ValidationError

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.parked import list_parked
from orderflow_server.parked import release as release_parked
from orderflow_server.payments.simulator import client as simulator_client
from orderflow_server.payments.simulator import server as simulator_server
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.settings import Settings
from orderflow_server.storage.opening import open_store_for, upgrade
from orderflow_server.telemetry.logs import configure_logs

app = typer.Typer(
    name="orderflow-server",
    help="The Orderflow order service, its payment simulator, and a demonstration of both.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Rate = Annotated[float, typer.Option(min=0.0, max=1.0)]
DatabaseOption = Annotated[
    str | None, typer.Option(help="A SQLite file, or a URL: postgresql://...")
]
TargetOption = Annotated[str, typer.Option(help="The simulator, host:port.")]


def main() -> None:
    app()


@app.command()
def serve(
    address: Annotated[str | None, typer.Option(help="Where to serve, host:port.")] = None,
    ops_address: Annotated[
        str | None, typer.Option(help="Where to answer /metrics, /livez, /readyz, host:port.")
    ] = None,
    database: DatabaseOption = None,
    gateway: Annotated[
        str | None, typer.Option(help="The payment gateway, host:port. Default: a simulator.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="How many processes serve, on one port.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json, console.")] = None,
) -> None:
    """Serve orders until Ctrl-C or SIGTERM. More settings: ORDERFLOW_* in the environment."""
    given = {
        "address": address,
        "ops_address": ops_address,
        "database": database,
        "gateway": gateway,
        "workers": workers,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = _settings({name: value for name, value in given.items() if value is not None})
    # The service's libraries would slow the other commands.
    from orderflow_server.serving import CannotServe
    from orderflow_server.serving import serve as serve_orders

    try:
        asyncio.run(serve_orders(settings))
    except CannotServe as error:
        raise _failure(str(error)) from error


@app.command()
def gateway(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 50052,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal faults.")] = 0,
    outage: Annotated[bool, typer.Option(help="Every call fails.")] = False,
    error_rate: Rate = 0.0,
    timeout_rate: Rate = 0.0,
    lost_answer_rate: Rate = 0.0,
    decline_rate: Rate = 0.0,
    latency_ms: Annotated[float, typer.Option(help="The median, lognormal.", min=0)] = 0.0,
    latency_sigma: Annotated[float, typer.Option(help="0: always the median.", min=0)] = 0.0,
    log_format: Annotated[str, typer.Option(help="auto, json, console.")] = "auto",
) -> None:
    """Run the payment simulator until Ctrl-C or SIGTERM."""
    faults = _faults(
        outage=outage,
        error_rate=error_rate,
        timeout_rate=timeout_rate,
        lost_answer_rate=lost_answer_rate,
        decline_rate=decline_rate,
        latency_median_s=latency_ms / 1000,
        latency_sigma=latency_sigma,
    )
    settings = _settings({"log_format": log_format})
    configure_logs(level=settings.log_level, form=settings.log_format)
    asyncio.run(simulator_server.run(host=host, port=port, seed=seed, faults=faults))


@app.command()
def faults(
    target: TargetOption = "127.0.0.1:50052",
    outage: Annotated[bool | None, typer.Option(help="Every call fails.")] = None,
    error_rate: Rate | None = None,
    timeout_rate: Rate | None = None,
    lost_answer_rate: Rate | None = None,
    decline_rate: Rate | None = None,
    latency_ms: Annotated[float | None, typer.Option(help="The median, lognormal.")] = None,
    latency_sigma: Annotated[float | None, typer.Option(help="0: always the median.")] = None,
) -> None:
    """Show the faults of a running simulator; with options, change those and keep the others."""
    given = {
        "outage": outage,
        "error_rate": error_rate,
        "timeout_rate": timeout_rate,
        "lost_answer_rate": lost_answer_rate,
        "decline_rate": decline_rate,
        "latency_median_s": None if latency_ms is None else latency_ms / 1000,
        "latency_sigma": latency_sigma,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    typer.echo(json.dumps(asyncio.run(_change_faults(target, changes)), indent=2))


async def _change_faults(target: str, changes: dict[str, Any]) -> dict[str, Any]:
    try:
        current = await simulator_client.fetch_faults(target)
        if changes:
            wanted = _faults(**(dataclasses.asdict(current) | changes))
            current = await simulator_client.set_faults(target, wanted)
    except grpc.aio.AioRpcError as error:
        raise _failure(f"no simulator answers at {target}: {error.details()}") from error
    return dataclasses.asdict(current)


@app.command()
def ledger(target: TargetOption = "127.0.0.1:50052") -> None:
    """Dump a simulator's ledger, one JSON object a line, oldest first."""
    try:
        entries = asyncio.run(simulator_client.fetch_ledger(target))
    except grpc.aio.AioRpcError as error:
        raise _failure(f"no simulator answers at {target}: {error.details()}") from error
    for entry in entries:
        typer.echo(
            json.dumps(
                {
                    "kind": entry.kind.value,
                    "idempotency_key": entry.key,
                    "reference": entry.reference,
                    "currency_code": entry.amount.currency_code,
                    "units": entry.amount.units,
                    "nanos": entry.amount.nanos,
                    "time": entry.time.isoformat(),
                }
            )
        )


@app.command()
def migrate(database: DatabaseOption = None) -> None:
    """Bring the schema of the database up to date. Servers do so as well when they start."""
    settings = _settings({} if database is None else {"database": database})

    async def work() -> None:
        await upgrade(settings.database)

    _with_the_database(settings, work())
    typer.echo(f"{settings.database} is up to date")


@app.command()
def parked(
    database: DatabaseOption = None,
    limit: Annotated[int, typer.Option(help="The most to list.", min=1)] = 1000,
) -> None:
    """List the orders that are parked, one JSON object a line, longest parked first."""
    settings = _settings({} if database is None else {"database": database})

    async def work() -> None:
        async with open_store_for(settings.database) as store:
            for line in await list_parked(store, limit=limit):
                typer.echo(json.dumps(line))

    _with_the_database(settings, work())


@app.command()
def release(order_ids: list[UUID], database: DatabaseOption = None) -> None:
    """Have the gateway asked about parked orders again."""
    settings = _settings({} if database is None else {"database": database})

    async def work() -> None:
        async with open_store_for(settings.database) as store:
            left = await release_parked(store, order_ids, now=lambda: datetime.now(UTC))
        if left:
            raise _failure("not parked: " + ", ".join(map(str, left)))

    _with_the_database(settings, work())


def _with_the_database(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    configure_logs(level="error", form=settings.log_format)
    try:
        asyncio.run(work)
    except StoreUnavailable as error:
        raise _failure(f"cannot use the database {settings.database}: {error}") from error


@app.command()
def demo(
    orders: Annotated[int, typer.Option(help="How many to place.", min=1)] = 1000,
    concurrency: Annotated[int, typer.Option(help="How many at once.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of the gateway's faults and of the orders.")] = 1,
) -> None:
    """Place orders while charges time out and the service is killed; audit what became of them."""
    # The demonstration's libraries would slow the start of `serve`.
    from orderflow_server.demo import run_demo

    raise typer.Exit(run_demo(orders=orders, concurrency=concurrency, seed=seed))


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except ValidationError as error:
        problems = [
            f"setting {'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()
        ]
        raise _failure("; ".join(problems)) from error


def _faults(**values: Any) -> Faults:
    try:
        return Faults(**values)
    except ValueError as error:
        raise _failure(str(error)) from error


def _failure(message: str) -> typer.Exit:
    typer.secho(f"orderflow-server: {message}", err=True, fg=typer.colors.RED)
    return typer.Exit(1)
