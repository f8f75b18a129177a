"""The `orderflow-server` command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from orderflow_server.configuration import CONFIG_VARIABLE, BadSettings, Configuration, load
from orderflow_server.lifecycle import open_standard_descriptors
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.orders.ports import Outbox
from orderflow_server.parked import Release, list_parked
from orderflow_server.parked import release as release_parked
from orderflow_server.parked import release_all as release_all_parked
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.refused import list_refused
from orderflow_server.refused import retry as retry_refused
from orderflow_server.refused import skip as skip_refused
from orderflow_server.settings import Settings
from orderflow_server.storage.opening import open_failure, open_store_for, upgrade
from orderflow_server.telemetry.logs import configure_logs

app = typer.Typer(
    name="orderflow-server",
    help="The Orderflow order service, its payment simulator, and a demonstration of both.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

events = typer.Typer(
    help="Events that the stream refused: list, retry and skip them.", no_args_is_help=True
)
app.add_typer(events, name="events")

Rate = Annotated[float, typer.Option(min=0.0, max=1.0)]
HangingToken = Annotated[
    str, typer.Option(help="A Charge with this payment token never answers. Empty: none.")
]
LieRate = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="The share of answers that are wrong.")
]
RefuseCode = Annotated[
    str,
    typer.Option(help="Refuse every call with this status, such as UNIMPLEMENTED. Empty: none."),
]
DatabaseOption = Annotated[
    str | None, typer.Option(help="A SQLite file, or a URL: postgresql://...")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(envvar=CONFIG_VARIABLE, help="A TOML file of settings: name = value."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting; can be given several times."),
]
ReasonOption = Annotated[
    str, typer.Option(help="Only those whose reason begins with this, such as ANSWER_INVALID.")
]
TargetOption = Annotated[str, typer.Option(help="The simulator, host:port.")]


def main() -> None:
    open_standard_descriptors()
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
    tls_certificate: Annotated[
        Path | None, typer.Option(help="The server's certificate, a PEM file.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, a PEM file.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Who signed the clients' certificates, a PEM file.")
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Serve other machines without TLS."),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, json, console.")] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Serve orders until Ctrl-C or SIGTERM. All settings: `orderflow-server settings`."""
    given = {
        "address": address,
        "ops_address": ops_address,
        "database": database,
        "gateway": gateway,
        "workers": workers,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "tls_client_ca": tls_client_ca,
        "insecure": insecure,
        "log_level": log_level,
        "log_format": log_format,
    }
    its = _configuration(given, config, assignments or ()).settings
    # The service's libraries would slow the other commands.
    from orderflow_server.serving import CannotServe, DatabaseLost
    from orderflow_server.serving import serve as serve_orders
    from orderflow_server.workers import DATABASE_LOST

    try:
        _run_server(serve_orders(its))
    except DatabaseLost as error:
        raise _failure(str(error), code=DATABASE_LOST if its.supervised else 1) from error
    except CannotServe as error:
        raise _failure(str(error)) from error


@app.command()
def settings(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one object a line.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Show every setting: what it means, its default, and the value that `serve` would use."""
    found = _configuration({}, config, assignments or ())
    # Its libraries would slow the other commands.
    from orderflow_server.settings_table import print_settings, setting_lines

    if not as_json:
        print_settings(found)
        return
    for line in setting_lines(found):
        typer.echo(json.dumps(dataclasses.asdict(line)))


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
    hanging_token: HangingToken = "",
    lie_rate: LieRate = 0.0,
    refuse_code: RefuseCode = "",
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
        hanging_token=hanging_token,
        lie_rate=lie_rate,
        refuse_code=refuse_code,
    )
    its = _configuration({"log_format": log_format}).settings
    configure_logs(level=its.log_level, form=its.log_format)
    # The simulator's libraries would slow the other commands; so below.
    from orderflow_server.payments.simulator import server as simulator_server

    _run_server(simulator_server.run(host=host, port=port, seed=seed, faults=faults))


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
    hanging_token: HangingToken | None = None,
    lie_rate: LieRate | None = None,
    refuse_code: RefuseCode | None = None,
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
        "hanging_token": hanging_token,
        "lie_rate": lie_rate,
        "refuse_code": refuse_code,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    typer.echo(json.dumps(asyncio.run(_change_faults(target, changes)), indent=2))


async def _change_faults(target: str, changes: dict[str, Any]) -> dict[str, Any]:
    import grpc

    from orderflow_server.payments.simulator import client as simulator_client

    try:
        current = await simulator_client.fetch_faults(target)
        if changes:
            wanted = _faults(**(dataclasses.asdict(current) | changes))
            current = await simulator_client.set_faults(target, wanted)
    except grpc.aio.AioRpcError as error:
        raise _failure(_no_simulator(target, error.details())) from error
    return dataclasses.asdict(current)


@app.command()
def ledger(target: TargetOption = "127.0.0.1:50052") -> None:
    """Dump a simulator's ledger, one JSON object a line, oldest first."""
    import grpc

    from orderflow_server.payments.simulator import client as simulator_client

    try:
        entries = asyncio.run(simulator_client.fetch_ledger(target))
    except grpc.aio.AioRpcError as error:
        raise _failure(_no_simulator(target, error.details())) from error
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
def migrate(database: DatabaseOption = None, config: ConfigOption = None) -> None:
    """Bring the schema of the database up to date. Servers do so as well when they start."""
    its = _configuration({"database": database}, config).settings

    async def work() -> None:
        await upgrade(its.database)

    _with_the_database(its, work())
    typer.echo(f"{its.database} is up to date")


@app.command()
def parked(
    database: DatabaseOption = None,
    limit: Annotated[int, typer.Option(help="The most to list.", min=1)] = 1000,
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """List parked orders, one JSON object a line, longest parked first."""
    its = _configuration({"database": database}, config).settings

    async def work() -> None:
        async with open_store_for(its.database, existing_only=True) as store:
            for line in await list_parked(store, limit=limit, reason=reason):
                typer.echo(json.dumps(line))

    _with_the_database(its, work())


@app.command()
def release(
    order_ids: Annotated[list[UUID] | None, typer.Argument(help="Order ids.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that are parked now.")] = False,
    reason: ReasonOption = "",
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Let the worker settle parked orders again; print the result for each.

    Exits with 1 when an order does not exist. An order that is not parked any more is no failure.
    """
    if every == bool(order_ids):
        raise _failure("give order ids, or --all")
    if reason and not every:
        raise _failure("--reason needs --all")
    its = _configuration({"database": database}, config).settings
    missing = False

    async def work() -> None:
        nonlocal missing
        async with open_store_for(its.database, existing_only=True) as store:
            results = (
                release_all_parked(store, reason=reason)
                if every
                else release_parked(store, order_ids or ())
            )
            async for order_id, result in results:
                missing = missing or result is Release.NOT_FOUND
                typer.echo(json.dumps({"order_id": str(order_id), "result": result}))

    _with_the_database(its, work())
    if missing:
        raise typer.Exit(1)


@events.command()
def refused(
    database: DatabaseOption = None,
    limit: Annotated[int, typer.Option(help="Maximum number of events.", min=1)] = 1000,
    config: ConfigOption = None,
) -> None:
    """List refused events, one JSON object a line, oldest first."""
    its = _configuration({"database": database}, config).settings
    _print_events(its, lambda store: list_refused(store, limit=limit))


@events.command()
def retry(
    sequences: Annotated[list[int] | None, typer.Argument(metavar="[SEQUENCE]...")] = None,
    every: Annotated[bool, typer.Option("--all", help="Retry every refused event.")] = False,
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Publish refused events again, with the later versions of their orders that wait."""
    if every == bool(sequences):
        raise _failure("give either --all or the sequences that `events refused` lists")
    its = _configuration({"database": database}, config).settings
    _print_events(its, lambda store: retry_refused(store, None if every else sequences))


@events.command()
def skip(
    sequences: Annotated[list[int], typer.Argument(metavar="SEQUENCE...")],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Never publish these refused events; publish the later versions of their orders."""
    its = _configuration({"database": database}, config).settings
    _print_events(its, lambda store: skip_refused(store, sequences))


def _print_events(
    its: Settings, work: Callable[[Outbox], Awaitable[Sequence[dict[str, Any]]]]
) -> None:
    async def print_lines() -> None:
        async with open_store_for(its.database, existing_only=True) as store:
            for line in await work(store):
                typer.echo(json.dumps(line))

    _with_the_database(its, print_lines())


def _run_server(work: Coroutine[Any, Any, None]) -> None:
    # Nor do the other commands need them.
    import uvloop

    from orderflow_server.lifecycle import let_threads_finish_their_turns

    let_threads_finish_their_turns()
    # A tenth less CPU per call than with the standard library's (bench/overhead.py).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def _with_the_database(its: Settings, work: Coroutine[Any, Any, None]) -> None:
    configure_logs(level="error", form=its.log_format)
    try:
        asyncio.run(work)
    except StoreUnavailable as error:
        raise _failure(open_failure(its.database, error)) from error


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


@app.command()
def chaos(
    scenario: Annotated[str, typer.Argument(help="Its name, or all. Without: list them.")] = "",
    seed: Annotated[int, typer.Option(help="Of the orders, and of when and what breaks.")] = 1,
    report: Annotated[Path, typer.Option(help="The HTML page to write.")] = Path("chaos.html"),
    without: Annotated[
        str, typer.Option(hidden=True, help="A policy to take away: the scenario should fail.")
    ] = "",
) -> None:
    """Break things around real servers, and see what becomes of the orders."""
    # The plots' libraries are for development, and would slow the other commands.
    try:
        from orderflow_server.chaos.command import run_scenarios
    except ModuleNotFoundError as error:
        raise _failure(
            f"the report needs {error.name}, which is among the development dependencies"
        ) from error
    from orderflow_server.chaos.processes import CannotStart
    from orderflow_server.chaos.scenarios import SCENARIOS

    if not scenario:
        for each in SCENARIOS.values():
            typer.echo(f"{each.name:<18} {each.shows}")
        return
    if scenario != "all" and scenario not in SCENARIOS:
        raise _failure(f"there is no scenario {scenario}; there are {', '.join(SCENARIOS)}, all")
    chosen = [each for name, each in SCENARIOS.items() if scenario in (name, "all")]
    try:
        raise typer.Exit(run_scenarios(chosen, seed=seed, report=report, without=without))
    except (CannotStart, OSError) as error:
        raise _failure(str(error)) from error


def _configuration(
    flags: dict[str, Any], config: Path | None = None, assignments: Sequence[str] = ()
) -> Configuration:
    """The settings, of which those flags that are None were not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return load(given, assignments=assignments, config=config)
    except BadSettings as error:
        raise _failure(str(error)) from error


def _faults(**values: Any) -> Faults:
    try:
        return Faults(**values)
    except ValueError as error:
        raise _failure(str(error)) from error


def _no_simulator(target: str, details: str | None) -> str:
    from orderflow_client.unreachable import cause_of_status

    return f"no simulator answers at {target}: {cause_of_status(details) or details}"


def _failure(message: str, *, code: int = 1) -> typer.Exit:
    typer.secho(f"orderflow-server: {message}", err=True, fg=typer.colors.RED)
    return typer.Exit(code)
