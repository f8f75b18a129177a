"""Where the events of orders are: a stream of NATS JetStream, and the way to it.

Needs nats-py, the extra `events`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from nats.aio.client import Client
from nats.errors import Error

from orderflow_client.unreachable import cause_of

STREAM = "ORDERS"
SUBJECTS = "orders.>"
"""Every subject of the stream."""

CONNECT_TIMEOUT_S = 2
_CLOSE_TIMEOUT_S = 1.0

TROUBLES = (Error, OSError, TimeoutError)
"""What the NATS client raises when something is wrong on the other side or on the way."""


def subject(order_id: str, state: str = "*") -> str:
    """Where the events of an order are, those of one state or all: `orders.<order id>.<state>`.

    Args:
        order_id: As in the order; `*` for any.
        state: In lower case, such as `paid`.
    """
    return f"orders.{order_id}.{state}"


class NatsUnreachable(ConnectionError):
    """No connection: the text gives the addresses and the cause, without users and passwords."""


async def connect(
    servers: Sequence[str],
    *,
    name: str,
    reconnect: bool,
    on_error: Callable[[Exception], None] = lambda _: None,
) -> Client:
    """Connect to the first of the servers that can be reached.

    Args:
        servers: URLs such as nats://host:port.
        name: What the servers know the connection as.
        reconnect: When it is lost it is made again, for ever; otherwise it is closed then.
        on_error: Called with each error that the server reports and that no call raises, such as
            a subject that the client may not publish to.

    Raises:
        NatsUnreachable: None could be reached within a few seconds, or an address is invalid.
    """
    where = ", ".join(_without_secrets(server) for server in servers)
    try:
        # The NATS client does not check the port before it is closed.
        for server in servers:
            _ = urlsplit(server if "://" in server else f"nats://{server}").port
    except ValueError:
        # The error has the URL's own text.
        raise NatsUnreachable(f"NATS cannot be reached at {where}: invalid address") from None
    troubles: list[Exception] = []

    async def note(error: Exception) -> None:
        # What it finds here it does not always raise.
        troubles[:] = [error]
        on_error(error)

    client = Client()
    try:
        async with asyncio.timeout(2 * CONNECT_TIMEOUT_S):
            await client.connect(
                list(servers),
                name=name,
                error_cb=note,
                allow_reconnect=reconnect,
                # Without reconnecting: each server is tried twice, the least that it knows.
                max_reconnect_attempts=-1 if reconnect else 1,
                reconnect_time_wait=1 if reconnect else 0,
                connect_timeout=CONNECT_TIMEOUT_S,
            )
    except TROUBLES as error:
        await close(client)
        cause = troubles[0] if troubles else error
        raise NatsUnreachable(f"NATS cannot be reached at {where}: {cause_of(cause)}") from cause
    except BaseException:
        await close(client)
        raise
    return client


def _without_secrets(server: str) -> str:
    return server.rpartition("://")[2].rpartition("@")[2]


async def close(client: Client) -> None:
    """Ends the connection, whatever state it is in."""
    try:
        # It sends what is left first; to a peer that reads no more that takes for ever.
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            await client.close()
    except TROUBLES:
        # It was lost already, and is closed now.
        pass
