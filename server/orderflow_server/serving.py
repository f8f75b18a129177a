"""`orderflow-server serve`: one process, or several on one port."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from orderflow_server.gateway_target import gateway_target
from orderflow_server.lifecycle import (
    StoppedEarly,
    given_up_at,
    leave_alone_what_stays,
    stop_signals,
    stop_with_stdin,
)
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.security.reloading import UnusableFile
from orderflow_server.settings import Settings
from orderflow_server.storage.apart import upgraded_apart
from orderflow_server.storage.opening import open_failure
from orderflow_server.telemetry.export import open_exports
from orderflow_server.telemetry.line_writer import write_to_stderr_aside
from orderflow_server.telemetry.logs import configure_logs
from orderflow_server.workers import WorkerFailed, Workers, reserved_port

if TYPE_CHECKING:
    from orderflow_server.app import OrderApp

log = structlog.get_logger("orderflow.serving")


class CannotServe(Exception):
    """Something that serving needs is not there; the text is for whoever started it."""


class DatabaseLost(CannotServe):
    """The database is gone for good; the server has stopped."""


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM, Ctrl-C or, as one of several workers, the end of standard input.

    Raises:
        DatabaseLost: The database was deleted, moved or replaced meanwhile.
        CannotServe: From the cause.
    """
    if settings.workers > 1:
        await _serve_with_workers(settings)
        return
    async with stop_signals() as stop, AsyncExitStack() as stack:
        if settings.supervised:
            stack.enter_context(stop_with_stdin(stop))
        try:
            async with given_up_at(stop):
                app = await _start(settings, stack)
        except StoppedEarly:
            log.info("stopped before it served")
            return
        if settings.supervised:
            os.write(settings.ready_fd, b"1")
        else:
            write_to_stderr_aside(_hints(app.address, settings, app.ops_address))
        leave_alone_what_stays()
        await _stopped_or_lost(stop, app)


async def _stopped_or_lost(stop: asyncio.Event, app: OrderApp) -> None:
    """Returns at the stop signal.

    Raises:
        DatabaseLost: The database is gone for good.
    """
    stopping = asyncio.create_task(stop.wait())
    either: list[asyncio.Future[Any]] = [stopping, app.lost]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if app.lost.done() and not stop.is_set():
        raise DatabaseLost(f"stopped: {app.lost.result()}")


async def _start(settings: Settings, stack: AsyncExitStack) -> OrderApp:
    """Telemetry first: it ends last, and what is said at the end leaves as well."""
    try:
        exports = await stack.enter_async_context(open_exports(version=version("orderflow-server")))
    except ValueError as error:
        raise CannotServe(f"an OTEL_* variable cannot be read: {error}") from error
    written = configure_logs(level=settings.log_level, form=settings.log_format, otlp=exports.logs)
    try:
        async with upgraded_apart(settings.database):
            # Loading them is a third of a start: meanwhile another process makes the schema, if it
            # must. And who only looks after workers does without them.
            from orderflow_server.app import order_app
            from orderflow_server.ops.server import OpsAddressUnavailable
        try:
            return await stack.enter_async_context(
                order_app(
                    settings,
                    tracer_provider=exports.tracer_provider,
                    lines_dropped=written.dropped,
                )
            )
        except (OpsAddressUnavailable, UnusableFile) as error:
            raise CannotServe(str(error)) from error
        except RuntimeError as error:
            if "bind" not in str(error):
                raise
            raise CannotServe(f"cannot serve on {settings.address}: is the port taken?") from error
    except StoreUnavailable as error:
        raise CannotServe(open_failure(settings.database, error)) from error


async def _serve_with_workers(settings: Settings) -> None:
    configure_logs(level=settings.log_level, form=settings.log_format)
    async with stop_signals() as stop, AsyncExitStack() as stack:
        try:
            address = stack.enter_context(reserved_port(settings.address))
        except OSError as error:
            raise CannotServe(f"cannot serve on {settings.address}: {error}") from error
        # A simulator is one for all workers, and so is its ledger.
        gateway = await stack.enter_async_context(gateway_target(settings.gateway))
        workers = Workers(settings.model_copy(update={"address": address, "gateway": gateway}))

        def on_serving() -> None:
            log.info("all workers serve", workers=settings.workers, address=address)
            write_to_stderr_aside(_hints(address, settings, settings.ops_address))

        try:
            await workers.run(stop, on_serving)
        except* WorkerFailed as failed:
            # It has said why.
            raise CannotServe(str(failed.exceptions[0])) from failed


def _hints(address: str, settings: Settings, ops_address: str) -> str:
    host, _, port = address.rpartition(":")
    here = f"127.0.0.1:{port}" if host in {"0.0.0.0", "[::]"} else address  # noqa: S104  compared only
    tls = settings.tls_certificate is not None
    options = "" if here == Settings.model_fields["address"].default else f" --target {here}"
    options += " --tls" if tls else ""
    return f"""
Orderflow serves on {address}. Try, in another terminal:

  orderflow health{options}
  orderflow order create --customer alice --item BOOK-1:2:12.50 --payment-token tok_visa{options}
  orderflow order list{options}
  grpcurl {"" if tls else "-plaintext "}{here} describe orderflow.v1.OrderService
  curl http://{ops_address}/metrics

Ctrl-C stops it.

"""
