"""Publishes events to a stream of NATS JetStream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from nats.aio.client import Client
from nats.js.api import RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from orderflow_client.event_stream import STREAM, SUBJECTS, TROUBLES, close, connect, subject
from orderflow_server.events.cloud_events import headers
from orderflow_server.events.ports import PublishFailed, event_id
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent

KEPT_FOR = timedelta(days=7)
DUPLICATE_WINDOW = timedelta(minutes=2)
ACK_TIMEOUT_S = 2.0

MESSAGE_ID = "Nats-Msg-Id"
"""The header that the stream deduplicates by."""

Encode = Callable[[str, Order], bytes]
"""The payload of an event, from its id and the order at that version."""

_log = structlog.get_logger(__name__)


class NatsPublisher:
    """Implements the port `EventPublisher`.

    A connection that was lost is thrown away and `prepare` makes another: when to try again is
    the caller's to decide, and what the caller has given up is not sent later on. Nothing is
    connected before `prepare` is called, so a service starts without NATS, too.

    Args:
        servers: URLs such as nats://host:port.
        encode: Makes the payload.
        ack_timeout_s: How long an acknowledgement may take.
    """

    def __init__(
        self, servers: Sequence[str], *, encode: Encode, ack_timeout_s: float = ACK_TIMEOUT_S
    ) -> None:
        self._servers = servers
        self._encode = encode
        self._ack_timeout_s = ack_timeout_s
        self._client: Client | None = None
        self._stream: JetStreamContext | None = None
        self._weaknesses: Sequence[str] = ()

    async def prepare(self) -> None:
        """Connects, and makes the stream when there is none."""
        try:
            if self._client is None or not self._client.is_connected:
                await self.close()
                self._client = await connect(
                    self._servers, name="orderflow-server", reconnect=False
                )
            if self._stream is None:
                self._stream = await self._find_stream(self._client)
        except TROUBLES as error:
            # Whatever is wrong with this connection, another one may do better.
            await self.close()
            raise PublishFailed(f"NATS is not ready: {error}") from error

    async def publish(self, event: OutboxEvent) -> None:
        """Returns when the stream has the event, or has had it already."""
        order = event.order
        identity = event_id(order)
        payload = self._encode(identity, order)
        if self._stream is None:
            raise PublishFailed("NATS is not ready")
        try:
            await self._stream.publish(
                subject(str(order.id), order.state.value.lower()),
                payload,
                timeout=self._ack_timeout_s,
                stream=STREAM,
                headers={MESSAGE_ID: identity, **headers(order)},
            )
        except TROUBLES as error:
            # Perhaps the stream is gone: `prepare` looks.
            self._stream = None
            raise PublishFailed(f"event {identity}: {error}") from error

    async def close(self) -> None:
        """Ends the connection, if there is one."""
        client, self._client, self._stream = self._client, None, None
        if client is not None:
            await close(client)

    async def _find_stream(self, client: Client) -> JetStreamContext:
        stream = client.jetstream(timeout=self._ack_timeout_s)
        try:
            found = (await stream.stream_info(STREAM)).config
        except NotFoundError:
            await stream.add_stream(_CONFIG)
            _log.info("stream made", stream=STREAM)
        else:
            # Somebody set it up and may have had reasons: it is left as it is.
            weaknesses = _weaknesses(found)
            if weaknesses and weaknesses != self._weaknesses:
                _log.warning("the stream promises less than events need", weaknesses=weaknesses)
            self._weaknesses = weaknesses
        return stream


@asynccontextmanager
async def nats_publisher(servers: str, *, encode: Encode) -> AsyncIterator[NatsPublisher]:
    """A publisher; its connection, if there is one, is closed at the end.

    Args:
        servers: URLs such as nats://host:port, separated by commas.
        encode: Makes the payload.
    """
    publisher = NatsPublisher(servers.split(","), encode=encode)
    try:
        yield publisher
    finally:
        await publisher.close()


_CONFIG = StreamConfig(
    name=STREAM,
    description="Every version of every order, as orderflow.v1.OrderEvent",
    subjects=[SUBJECTS],
    retention=RetentionPolicy.LIMITS,
    storage=StorageType.FILE,
    max_age=KEPT_FOR.total_seconds(),
    duplicate_window=DUPLICATE_WINDOW.total_seconds(),
)


def _weaknesses(config: StreamConfig) -> list[str]:
    """What a stream does not promise that ours would. How much it keeps is its owner's business."""
    weaknesses = []
    if SUBJECTS not in (config.subjects or ()):
        weaknesses.append(f"it does not take {SUBJECTS}")
    if config.retention != RetentionPolicy.LIMITS:
        weaknesses.append("it drops what has been read")
    if config.storage != StorageType.FILE:
        weaknesses.append("it is kept in memory")
    if config.duplicate_window < DUPLICATE_WINDOW.total_seconds():
        weaknesses.append(f"it knows a message again for {config.duplicate_window:g} s only")
    return weaknesses
