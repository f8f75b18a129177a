"""Publishes events to a stream of NATS JetStream."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from nats.aio.client import Client
from nats.errors import BadHeaderError, BadSubjectError, MaxPayloadError
from nats.js.api import Header, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from orderflow_client.event_stream import (
    STREAM,
    SUBJECTS,
    TROUBLES,
    NatsUnreachable,
    close,
    connect,
    subject,
)
from orderflow_server.events.cloud_events import headers
from orderflow_server.events.ports import EventRefused, PublishFailed, event_id
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent

KEPT_FOR = timedelta(days=7)
DUPLICATE_WINDOW = timedelta(minutes=2)
ACK_TIMEOUT_S = 2.0

MESSAGE_ID = "Nats-Msg-Id"
"""The header that the stream deduplicates by."""

_REFUSALS = {
    10054,  # The message is larger than the stream's max_msg_size.
    10097,  # Its headers are larger than 64 kB.
}
"""JetStream's error codes that refuse one message for good, and say nothing of the stream."""

_DENIED = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)
"""The server's error for a subject that this client may not publish to; no call raises it."""

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
        self._stream_checked = False
        self._denied: set[str] = set()
        self._weaknesses: Sequence[str] = ()

    async def prepare(self) -> None:
        """Connects, and makes the stream when there is none."""
        try:
            if self._client is None or not self._client.is_connected:
                await self.close()
                self._client = await connect(
                    self._servers,
                    name="orderflow-server",
                    reconnect=False,
                    on_error=self._note_denied,
                )
            if not self._stream_checked:
                self._stream = await self._find_stream(self._client)
                self._stream_checked = True
        except NatsUnreachable as error:
            # Its text is the whole sentence.
            raise PublishFailed(str(error)) from error
        except TROUBLES as error:
            # Whatever is wrong with this connection, another one may do better.
            await self.close()
            raise PublishFailed(f"NATS is not ready: {error}") from error

    async def publish(self, event: OutboxEvent) -> None:
        """Returns when the stream has the event, or has had it already."""
        order = event.order
        identity = event_id(order)
        payload, attributes, size = self._message(identity, order)
        if self._client is None or self._stream is None:
            raise PublishFailed("NATS is not ready")
        # The client checks the payload without headers. The server checks both, and closes the
        # connection for everybody.
        if size > self._client.max_payload:
            raise EventRefused(
                f"{size} bytes with headers, max_payload is {self._client.max_payload}"
            )
        to = subject(str(order.id), order.state.value.lower())
        try:
            await self._stream.publish(
                to,
                payload,
                timeout=self._ack_timeout_s,
                headers=attributes,
            )
        except (BadHeaderError, BadSubjectError, MaxPayloadError) as error:
            raise EventRefused(f"refused by the NATS client: {error}") from error
        except TROUBLES as error:
            if isinstance(error, APIError) and error.err_code in _REFUSALS:
                raise EventRefused(f"refused by the stream: {error.description}") from error
            if to in self._denied:
                self._denied.discard(to)
                raise EventRefused(f"no permission to publish to {to}") from error
            # The stream may be gone: `prepare` checks. Other events are still tried.
            self._stream_checked = False
            raise PublishFailed(f"event {identity}: {error}") from error

    def _note_denied(self, error: Exception) -> None:
        # The acknowledgement of such a message never comes: `publish` looks here when it is late.
        if denied := _DENIED.search(str(error)):
            self._denied.add(denied[1])

    def _message(self, identity: str, order: Order) -> tuple[bytes, dict[str, str], int]:
        """Return the event's payload, its headers, and the size of both on the wire.

        Raises:
            EventRefused: It cannot be encoded.
        """
        try:
            payload = self._encode(identity, order)
            attributes = {
                MESSAGE_ID: identity,
                Header.EXPECTED_STREAM.value: STREAM,
                **headers(order),
            }
            lines = "".join(f"{name}: {value}\r\n" for name, value in attributes.items())
            size = len(f"NATS/1.0\r\n{lines}\r\n".encode()) + len(payload)
        except Exception as error:
            raise EventRefused(f"cannot be encoded: {type(error).__name__}") from error
        return payload, attributes, size

    async def close(self) -> None:
        """Ends the connection, if there is one."""
        client, self._client, self._stream = self._client, None, None
        self._stream_checked = False
        self._denied.clear()
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
