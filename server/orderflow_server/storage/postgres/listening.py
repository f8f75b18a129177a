"""Hears from the database which orders were changed, by whatever replica."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.postgres.notices import CHANNEL, order_ids_in

log = structlog.get_logger("orderflow.store")

_PROBE_INTERVAL_S = 5.0
"""How often the connection is asked for a sign of life: one that is cut off says nothing."""
_MIN_REST_S = 0.05
_MAX_REST_S = 2.0

C = TypeVar("C", bound=asyncpg.Connection)


async def listen(
    connect: Callable[[], Awaitable[C]],
    on_change: Callable[[Iterable[UUID]], None],
    on_gap: Callable[[], None],
    *,
    check: Callable[[C], Awaitable[bool]],
) -> None:
    """Tells of changed orders until it is cancelled; connects again as often as it must.

    Args:
        connect: Makes a connection; may raise StoreUnavailable.
        on_change: Called with orders that were changed: each of their changes is told, or is one
            that happened before `on_gap` was called.
        on_gap: Called whenever listening has begun, again or for the first time.
        check: Called every few seconds; returns whether the server still takes writes. Raises an
            error of asyncpg or OSError when it does not answer.
    """
    failures = 0

    def heard(_connection: Any, _process: int, _channel: str, notice: object) -> None:
        try:
            order_ids = order_ids_in(str(notice))
        except ValueError:  # Somebody else uses the channel. It may mean anything.
            on_gap()
        else:
            on_change(order_ids)

    while True:
        try:
            connection = await connect()
            try:
                await connection.add_listener(CHANNEL, heard)
                failures = 0
                on_gap()
                await _until_lost(connection, check)
            finally:
                connection.terminate()
        except (StoreUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if failures == 0:  # One line per streak: an outage must not flood the log.
                log.warning("changes by other replicas are not heard", exc_info=error)
        rest_s = min(_MIN_REST_S * 2**failures, _MAX_REST_S)
        failures = min(failures + 1, 16)
        # Spread, so that not all replicas come back to a database at the same moment.
        await asyncio.sleep(rest_s * random.uniform(0.8, 1.2))


async def _until_lost(connection: C, check: Callable[[C], Awaitable[bool]]) -> None:
    """Raise an error of asyncpg or OSError when the connection is lost, or its server demoted."""
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    if connection.is_closed():  # Before it was listened for.
        lost.set()
    while True:
        try:
            async with asyncio.timeout(_PROBE_INTERVAL_S):
                await lost.wait()
        except TimeoutError:
            async with asyncio.timeout(_PROBE_INTERVAL_S):
                takes_writes = await check(connection)
            if not takes_writes:
                raise ConnectionError("the server that is listened to takes no writes") from None
        else:
            raise ConnectionError("the connection that listens was closed")
