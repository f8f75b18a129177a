"""What arrives at a real NATS, and what happens when it is not there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import nats as nats_client
import pytest
from msgspec import structs
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.client import JetStreamContext
from structlog.testing import capture_logs

from fakes.nats import NatsServer, nats_server
from fakes.orders import NOW, TRACEPARENT, new_order
from orderflow.v1 import order_event_pb2
from orderflow_server.events.nats_publisher import Encode, NatsPublisher, nats_publisher
from orderflow_server.events.ports import EventRefused, PublishFailed
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent
from orderflow_server.rpc.convert import write_order
from orderflow_server.rpc.order_event import encode_order_event

ORDER = new_order(1)
PAID = ORDER.paid(NOW)


def event(order: Order) -> OutboxEvent:
    return OutboxEvent(order.version, order)


def publisher_to(server: NatsServer, *, ack_timeout_s: float = 2.0) -> NatsPublisher:
    return NatsPublisher([server.url], encode=encode_order_event, ack_timeout_s=ack_timeout_s)


@asynccontextmanager
async def jetstream(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    client = await nats_client.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def stored(server: NatsServer, subject: str = "orders.>") -> list[Msg]:
    """Everything the stream has on the subject."""
    async with jetstream(server) as stream:
        subscription = await stream.pull_subscribe(subject, stream="ORDERS")
        messages: list[Msg] = []
        try:
            while True:
                messages += await subscription.fetch(100, timeout=0.2)
        except TimeoutError:
            return messages


async def test_an_event_is_a_cloud_event_with_the_order_at_that_version(nats: NatsServer) -> None:
    async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
        await publisher.prepare()
        await publisher.publish(event(ORDER))
        await publisher.publish(event(PAID))
    [placed, paid] = await stored(nats)
    assert placed.subject == f"orders.{ORDER.id}.pending_payment"
    assert paid.subject == f"orders.{ORDER.id}.paid"
    assert paid.headers == {
        "Nats-Msg-Id": f"{ORDER.id}/2",
        "Nats-Expected-Stream": "ORDERS",
        "ce-specversion": "1.0",
        "ce-id": f"{ORDER.id}/2",
        "ce-source": "/orderflow/orders",
        "ce-type": "orderflow.v1.order.paid",
        "ce-subject": str(ORDER.id),
        "ce-time": "2026-01-02T03:04:05.678901+00:00",
        "ce-datacontenttype": "application/protobuf",
        "content-type": "application/protobuf",
        "traceparent": TRACEPARENT,
    }
    expected = order_event_pb2.OrderEvent(event_id=f"{ORDER.id}/2")
    write_order(expected.order, PAID)
    assert order_event_pb2.OrderEvent.FromString(paid.data) == expected
    assert b"tok_visa" not in paid.data


async def test_an_event_that_is_published_again_is_stored_once(nats: NatsServer) -> None:
    for _ in range(2):
        async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
            await publisher.prepare()
            await publisher.publish(event(ORDER))
    assert len(await stored(nats)) == 1


async def test_the_stream_is_made_once_and_as_it_must_be(nats: NatsServer) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
                await publisher.prepare()
                await publisher.prepare()
    assert [line["event"] for line in logs] == ["stream made"]
    async with jetstream(nats) as stream:
        config = (await stream.stream_info("ORDERS")).config
    assert config.subjects == ["orders.>"]
    assert config.storage == StorageType.FILE
    assert config.retention == RetentionPolicy.LIMITS
    assert config.duplicate_window == 120
    assert config.max_age == 7 * 24 * 3600


async def test_a_stream_that_is_there_is_left_alone_and_its_weaknesses_are_told_once(
    nats: NatsServer,
) -> None:
    weak = StreamConfig(
        name="ORDERS",
        subjects=["orders.>"],
        storage=StorageType.MEMORY,
        duplicate_window=60,
        max_age=30 * 24 * 3600,
    )
    async with jetstream(nats) as stream:
        await stream.add_stream(weak)
        with capture_logs() as logs:
            publisher = publisher_to(nats)
            for _ in range(2):
                await publisher.prepare()
                await publisher.publish(event(ORDER))
                await publisher.close()
        after = (await stream.stream_info("ORDERS")).config
    assert after.storage == StorageType.MEMORY
    assert after.max_age == weak.max_age
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert line["weaknesses"] == [
        "it is kept in memory",
        "it knows a message again for 60 s only",
    ]


async def test_a_stream_that_takes_other_subjects_gets_nothing(nats: NatsServer) -> None:
    async with jetstream(nats) as stream:
        await stream.add_stream(StreamConfig(name="ORDERS", subjects=["invoices.>"]))
        await stream.add_stream(StreamConfig(name="OTHER", subjects=["orders.>"]))
        async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
            with capture_logs() as logs:
                await publisher.prepare()
            with pytest.raises(PublishFailed):
                await publisher.publish(event(ORDER))
        assert (await stream.stream_info("OTHER")).state.messages == 0
    assert logs[0]["weaknesses"] == ["it does not take orders.>"]


async def test_a_stream_that_was_deleted_is_made_again(nats: NatsServer) -> None:
    async with (
        jetstream(nats) as stream,
        nats_publisher(nats.url, encode=encode_order_event) as publisher,
    ):
        await publisher.prepare()
        await stream.delete_stream("ORDERS")
        with pytest.raises(PublishFailed):
            await publisher.publish(event(ORDER))
        await publisher.prepare()
        await publisher.publish(event(ORDER))
    assert len(await stored(nats)) == 1


async def test_without_nats_it_says_so_and_connects_when_it_is_there(nats: NatsServer) -> None:
    await nats.stop()
    async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
        with pytest.raises(
            PublishFailed, match=r"^NATS cannot be reached at .*: connection refused$"
        ):
            await publisher.prepare()
        with pytest.raises(PublishFailed):
            await publisher.publish(event(ORDER))
        await nats.start()
        await publisher.prepare()
        await publisher.publish(event(ORDER))
    assert len(await stored(nats)) == 1


async def test_a_lost_connection_is_replaced(nats: NatsServer) -> None:
    async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
        await publisher.prepare()
        await publisher.publish(event(ORDER))
        await nats.stop()
        with pytest.raises(PublishFailed):
            await publisher.publish(event(PAID))
        await nats.start()
        await publisher.prepare()
        await publisher.publish(event(PAID))
    assert [message.headers["ce-id"] for message in await stored(nats) if message.headers] == [
        f"{ORDER.id}/1",
        f"{ORDER.id}/2",
    ]


async def test_a_server_that_does_not_answer_fails_what_was_sent_in_time(nats: NatsServer) -> None:
    publisher = publisher_to(nats, ack_timeout_s=0.1)
    await publisher.prepare()
    nats.freeze()
    async with asyncio.timeout(5):
        with pytest.raises(PublishFailed):
            await publisher.publish(event(ORDER))
        with pytest.raises(PublishFailed, match="timeout"):
            await publisher.prepare()
        with pytest.raises(PublishFailed, match=r"cannot be reached at .*: no answer in time"):
            await publisher.prepare()
    nats.thaw()
    await publisher.prepare()
    await publisher.publish(event(ORDER))
    await publisher.close()
    assert len(await stored(nats)) == 1


async def test_cancelled_while_it_connects_it_leaves_nothing_open(tmp_path: Path) -> None:
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        hung_up.set()
        writer.close()

    connected = asyncio.Event()
    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        publisher = NatsPublisher([f"nats://127.0.0.1:{port}"], encode=encode_order_event)
        preparing = asyncio.create_task(publisher.prepare())
        await connected.wait()
        for _ in range(20):
            # Now it waits for the server to speak.
            await asyncio.sleep(0)
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing
        async with asyncio.timeout(5):
            await hung_up.wait()


# One event's refusal


def sized(sizes: dict[str, int]) -> Encode:
    """Encode events as so many bytes, by their id; others as they are."""

    def encode(identity: str, order: Order) -> bytes:
        if identity in sizes:
            return bytes(sizes[identity])
        return encode_order_event(identity, order)

    return encode


MAX_PAYLOAD = 1024 * 1024
"""The default of a NATS server, for headers and payload together."""


@pytest.mark.parametrize("size", [MAX_PAYLOAD - 100, MAX_PAYLOAD, MAX_PAYLOAD + 1])
async def test_event_larger_than_the_server_allows_is_refused_before_it_is_sent(
    nats: NatsServer, size: int
) -> None:
    encode = sized({f"{ORDER.id}/1": size})
    async with nats_publisher(nats.url, encode=encode) as publisher:
        await publisher.prepare()
        with pytest.raises(EventRefused, match="max_payload"):
            await publisher.publish(event(ORDER))
        # The connection is as ready as before.
        await publisher.publish(event(PAID))
    [message] = await stored(nats)
    assert message.headers is not None
    assert message.headers["ce-id"] == f"{ORDER.id}/2"


async def test_event_of_exactly_the_size_that_the_server_allows_is_published(
    nats: NatsServer,
) -> None:
    sizes: dict[str, int] = {}
    async with nats_publisher(nats.url, encode=sized(sizes)) as publisher:
        await publisher.prepare()
        await publisher.publish(event(PAID))
        [message] = await stored(nats)
        headers = message.headers or {}
        sent = sum(len(f"{name}: {value}\r\n") for name, value in headers.items())
        room = MAX_PAYLOAD - sent - len("NATS/1.0\r\n\r\n")
        for more, refusal in ((1, pytest.raises(EventRefused)), (0, nullcontext())):
            # Its headers are as long as those of version 2.
            sizes[f"{ORDER.id}/3"] = room + more
            with refusal:
                await publisher.publish(event(structs.replace(PAID, version=3)))
    assert len(await stored(nats)) == 2


async def test_event_larger_than_the_stream_allows_is_refused_until_the_limit_is_raised(
    nats: NatsServer,
) -> None:
    small = StreamConfig(name="ORDERS", subjects=["orders.>"], max_msg_size=2000)
    encode = sized({f"{ORDER.id}/1": 3000})
    async with (
        jetstream(nats) as stream,
        nats_publisher(nats.url, encode=encode) as publisher,
    ):
        await stream.add_stream(small)
        await publisher.prepare()
        with pytest.raises(EventRefused, match="message size exceeds maximum allowed"):
            await publisher.publish(event(ORDER))
        await publisher.publish(event(PAID))
        small.max_msg_size = 10_000
        await stream.update_stream(small)
        await publisher.publish(event(ORDER))
    assert len(await stored(nats)) == 2


async def test_event_that_cannot_be_encoded_is_refused(nats: NatsServer) -> None:
    def encode(identity: str, order: Order) -> bytes:
        if order.version == 1:
            raise ValueError(f"secret of {order.customer_id}")
        return encode_order_event(identity, order)

    no_header = structs.replace(PAID, version=3, traceparent="\ud800")
    async with nats_publisher(nats.url, encode=encode) as publisher:
        await publisher.prepare()
        with pytest.raises(EventRefused, match=r"^cannot be encoded: ValueError$") as refusal:
            await publisher.publish(event(ORDER))
        with pytest.raises(EventRefused, match=r"^cannot be encoded: UnicodeEncodeError$"):
            await publisher.publish(event(no_header))
        await publisher.publish(event(PAID))
    assert isinstance(refusal.value.__cause__, ValueError)
    assert len(await stored(nats)) == 1


async def test_full_stream_is_no_refusal_of_the_event(nats: NatsServer) -> None:
    full = StreamConfig(name="ORDERS", subjects=["orders.>"], max_msgs=1, discard=DiscardPolicy.NEW)
    async with (
        jetstream(nats) as stream,
        nats_publisher(nats.url, encode=encode_order_event) as publisher,
    ):
        await stream.add_stream(full)
        await publisher.prepare()
        await publisher.publish(event(ORDER))
        with pytest.raises(PublishFailed, match="maximum messages exceeded"):
            await publisher.publish(event(PAID))
        full.max_msgs = 2
        await stream.update_stream(full)
        await publisher.publish(event(PAID))
    assert len(await stored(nats)) == 2


async def test_failed_event_does_not_stop_the_next(nats: NatsServer) -> None:
    """The failure may be this event's alone: here of its subject."""
    one_each = StreamConfig(
        name="ORDERS",
        subjects=["orders.>"],
        max_msgs_per_subject=1,
        discard=DiscardPolicy.NEW,
        discard_new_per_subject=True,
    )
    async with (
        jetstream(nats) as stream,
        nats_publisher(nats.url, encode=encode_order_event) as publisher,
    ):
        await stream.add_stream(one_each)
        await publisher.prepare()
        await publisher.publish(event(ORDER))
        with pytest.raises(PublishFailed):
            await publisher.publish(event(structs.replace(ORDER, version=2)))
        await publisher.publish(event(new_order(2)))
    assert len(await stored(nats)) == 2


async def test_event_on_a_subject_without_permission_is_refused(tmp_path: Path) -> None:
    denied = f"orders.{ORDER.id}.pending_payment"
    config = tmp_path / "nats.conf"
    config.write_text(
        "authorization { users = [{ user: relay, password: secret, permissions: "
        f'{{ publish: {{ deny: ["{denied}"] }} }} }}] }}'
    )
    async with nats_server(tmp_path, "--config", str(config)) as nats:
        url = nats.url.replace("nats://", "nats://relay:secret@")
        publisher = NatsPublisher([url], encode=encode_order_event, ack_timeout_s=0.5)
        await publisher.prepare()
        with pytest.raises(EventRefused, match=f"no permission to publish to {denied}"):
            await publisher.publish(event(ORDER))
        await publisher.publish(event(PAID))
        await publisher.close()
