"""The events of orders, as the service publishes them. Needs nats-py, the extra `events`.

async with aclosing(order_events(["nats://127.0.0.1:4222"])) as events:
    async for event in events:
        print(event.order.id, event.order.version)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import grpc
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from orderflow.v1 import order_event_pb2
from orderflow_client.errors import NotFound, Unavailable
from orderflow_client.event_stream import STREAM, TROUBLES, close, connect, subject

REMEMBERED = 100_000
_BATCH = 500
_IDLE_CHECK_S = 2.0
_RETRY_S = 0.5
_CONSUMER_KEPT_S = 60.0


async def order_events(
    servers: Sequence[str], *, order_id: str = "*", from_start: bool = False
) -> AsyncGenerator[order_event_pb2.OrderEvent, None]:
    """Events as they are published, each once, those of one order in the order of its versions.

    Goes on until it is closed; once it is connected no outage of NATS ends it, and none makes it
    miss an event that the stream still has. Of events that were published again, the last
    100 000 are recognised.

    Args:
        servers: URLs such as nats://host:port.
        order_id: Only this order's; `*`: every order's.
        from_start: First those that the stream has kept; otherwise only what comes from now on.

    Raises:
        Unavailable: No server can be reached.
        NotFound: It has no stream of events: none has been published yet.
    """
    try:
        client = await connect(servers, name="orderflow", reconnect=True)
    except ConnectionError as error:
        raise Unavailable(str(error), code=grpc.StatusCode.UNAVAILABLE) from error
    try:
        seen = _Seen()
        reader = _Reader(client, subject(order_id), await _first_sequence(client, from_start))
        while True:
            try:
                async with aclosing(reader.read()) as payloads:
                    async for payload in payloads:
                        event = order_event_pb2.OrderEvent.FromString(payload)
                        if seen.is_new(event.event_id):
                            yield event
            except TROUBLES:
                # It goes on where it was; until then the client looks for a server.
                await asyncio.sleep(_RETRY_S)
    finally:
        await close(client)


async def _first_sequence(client: Client, from_start: bool) -> int:
    try:
        state = (await client.jetstream().stream_info(STREAM)).state
    except NotFoundError as error:
        raise NotFound(
            f"there is no stream {STREAM}: nothing has been published yet",
            code=grpc.StatusCode.NOT_FOUND,
        ) from error
    except TROUBLES as error:
        raise Unavailable(
            f"JetStream does not answer: {error}", code=grpc.StatusCode.UNAVAILABLE
        ) from error
    return 1 if from_start else state.last_seq + 1


class _Reader:
    """Reads the stream from one place on, without gaps.

    Nothing is acknowledged: what was under way when a connection was lost is gone. So the
    messages are counted, and when one is missing another consumer starts after the last. (The
    ordered consumer of nats-py does likewise, but starts from the first message of the
    stream when none has come yet.)
    """

    def __init__(self, client: Client, filter_subject: str, first: int) -> None:
        self._stream = client.jetstream()
        self._subject = filter_subject
        self._next = first

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The payloads; ends when there is a gap, and goes on after the last when called again."""
        subscription = await self._subscribe()
        delivered = 0
        try:
            while True:
                try:
                    messages = await subscription.fetch(_BATCH, timeout=_IDLE_CHECK_S)
                except TimeoutError:
                    # Nothing came, or it was lost. A consumer that is no more raises here.
                    info = await subscription.consumer_info()
                    if info.delivered is not None and info.delivered.consumer_seq != delivered:
                        return
                    continue
                for message in messages:
                    delivered += 1
                    sequence = message.metadata.sequence
                    if sequence.consumer != delivered:
                        return
                    self._next = sequence.stream + 1
                    yield message.data
        finally:
            await subscription.unsubscribe()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        return await self._stream.pull_subscribe(
            self._subject,
            stream=STREAM,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=_CONSUMER_KEPT_S,
                mem_storage=True,
            ),
        )


class _Seen:
    """Remembers the last event ids."""

    def __init__(self) -> None:
        self._ids: dict[str, None] = {}

    def is_new(self, event_id: str) -> bool:
        if event_id in self._ids:
            return False
        self._ids[event_id] = None
        if len(self._ids) > REMEMBERED:
            del self._ids[next(iter(self._ids))]
        return True
