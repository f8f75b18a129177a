"""`orderflow-server serve`: one process, or several on one port."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog

from orderflow_server.app import order_app
from orderflow_server.lifecycle import leave_alone_what_stays, stop_signals, stop_with_stdin
from orderflow_server.ops.server import OpsAddressUnavailable
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.payments.simulator.server import PaymentSimulator
from orderflow_server.settings import Settings
from orderflow_server.telemetry.export import open_exports
from orderflow_server.telemetry.logs import configure_logs
from orderflow_server.workers import WorkerFailed, Workers, reserved_port

log = structlog.get_logger("orderflow.serving")


class CannotServe(Exception):
    """Something that serving needs is not there; the text is for whoever started it."""


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM, Ctrl-C or, as one of several workers, the end of standard input.

    Raises:
        CannotServe: From the cause.
    """
    if settings.workers > 1:
        await _serve_with_workers(settings)
        return
    async with stop_signals() as stop, AsyncExitStack() as stack:
        if settings.supervised:
            stack.enter_context(stop_with_stdin(stop))
        try:
            exports = await stack.enter_async_context(
                open_exports(version=version("orderflow-server"))
            )
        except ValueError as error:
            raise CannotServe(f"an OTEL_* variable cannot be read: {error}") from error
        configure_logs(level=settings.log_level, form=settings.log_format, otlp=exports.logs)
        try:
            app = await stack.enter_async_context(
                order_app(settings, tracer_provider=exports.tracer_provider)
            )
        except StoreUnavailable as error:
            raise CannotServe(f"cannot open the database {settings.database}: {error}") from error
        except OpsAddressUnavailable as error:
            raise CannotServe(str(error)) from error
        except RuntimeError as error:
            if "bind" not in str(error):
                raise
            raise CannotServe(f"cannot serve on {settings.address}: is the port taken?") from error
        if settings.supervised:
            os.write(settings.ready_fd, b"1")
        else:
            print(_hints(app.address, app.ops_address), file=sys.stderr)  # noqa: T201  for people
        leave_alone_what_stays()
        await stop.wait()


async def _serve_with_workers(settings: Settings) -> None:
    configure_logs(level=settings.log_level, form=settings.log_format)
    async with stop_signals() as stop, AsyncExitStack() as stack:
        try:
            address = stack.enter_context(reserved_port(settings.address))
        except OSError as error:
            raise CannotServe(f"cannot serve on {settings.address}: {error}") from error
        gateway = await stack.enter_async_context(_one_gateway(settings))
        workers = Workers(settings.model_copy(update={"address": address, "gateway": gateway}))

        def on_serving() -> None:
            log.info("all workers serve", workers=settings.workers, address=address)
            print(_hints(address, settings.ops_address), file=sys.stderr)  # noqa: T201  for people

        try:
            await workers.run(stop, on_serving)
        except* WorkerFailed as failed:
            # It has said why.
            raise CannotServe(str(failed.exceptions[0])) from failed


@asynccontextmanager
async def _one_gateway(settings: Settings) -> AsyncIterator[str]:
    """The gateway's address; without one, that of a simulator for all workers: one ledger."""
    if settings.gateway:
        yield settings.gateway
        return
    async with PaymentSimulator() as simulator:
        log.warning("no gateway is set: payments are simulated, no money moves")
        yield simulator.target


def _hints(address: str, ops_address: str) -> str:
    default = Settings.model_fields["address"].default
    target = "" if address == default else f" --target {address}"
    return f"""
Orderflow serves on {address}. Try, in another terminal:

  orderflow health{target}
  orderflow order create --customer alice --item BOOK-1:2:12.50 --payment-token tok_visa{target}
  orderflow order list{target}
  grpcurl -plaintext {address} describe orderflow.v1.OrderService
  curl http://{ops_address}/metrics

Ctrl-C stops it.
"""
