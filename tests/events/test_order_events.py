"""What a consumer reads: the library's `order_events` and the command `orderflow events tail`."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import count

import pytest

from fakes.nats import NatsServer
from fakes.orders import NOW, new_order, order_id
from orderflow.v1 import order_event_pb2
from orderflow_client import NotFound
from orderflow_client.event_stream import close, connect
from orderflow_client.events import _Reader, order_events
from orderflow_server.events.nats_publisher import NatsPublisher, nats_publisher
from orderflow_server.events.ports import event_id
from orderflow_server.orders.order import Order
from orderflow_server.orders.ports import OutboxEvent
from orderflow_server.rpc.order_event import encode_order_event

ONE, TWO = new_order(1), new_order(2)
PAID = ONE.paid(NOW)
DECLINED = TWO.declined("no funds", NOW)


@pytest.fixture
async def publisher(nats: NatsServer) -> AsyncIterator[NatsPublisher]:
    async with nats_publisher(nats.url, encode=encode_order_event) as publisher:
        await publisher.prepare()
        yield publisher


async def publish(publisher: NatsPublisher, *orders: Order) -> None:
    for order in orders:
        await publisher.publish(OutboxEvent(1, order))


async def read(events: AsyncIterator[order_event_pb2.OrderEvent], number: int) -> Sequence[str]:
    async with asyncio.timeout(10):
        return [(await anext(events)).event_id for _ in range(number)]


def ids(*orders: Order) -> list[str]:
    return [event_id(order) for order in orders]


async def test_from_the_start_it_reads_what_is_kept_and_then_what_comes(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE, TWO)
    async with aclosing(order_events([nats.url], from_start=True)) as events:
        assert await read(events, 2) == ids(ONE, TWO)
        await publish(publisher, PAID)
        assert await read(events, 1) == ids(PAID)


async def test_otherwise_it_reads_what_comes_only(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE)
    async with aclosing(order_events([nats.url])) as events:
        reading = asyncio.create_task(read(events, 1))
        for number in count(100):
            await publish(publisher, new_order(number))
            await asyncio.wait([reading], timeout=0.05)
            if reading.done():
                break
        assert reading.result() != ids(ONE)


async def test_of_one_order_it_reads_that_orders_events_only(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE, TWO, PAID, DECLINED)
    async with aclosing(order_events([nats.url], order_id=str(TWO.id), from_start=True)) as events:
        assert await read(events, 2) == ids(TWO, DECLINED)


async def test_an_event_that_the_stream_has_twice_is_read_once(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    """As it may be when an event is published again after more than the duplicate window."""
    await publish(publisher, ONE)
    stream = publisher._stream
    assert stream is not None
    payload = encode_order_event(event_id(ONE), ONE)
    for _ in range(3):
        await stream.publish(f"orders.{ONE.id}.pending_payment", payload)
    await publish(publisher, PAID)
    async with aclosing(order_events([nats.url], from_start=True)) as events:
        assert await read(events, 2) == ids(ONE, PAID)


async def test_it_goes_on_where_it_was_when_nats_comes_back(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE)
    async with aclosing(order_events([nats.url], from_start=True)) as events:
        assert await read(events, 1) == ids(ONE)
        await nats.stop()
        await nats.start()
        await publisher.prepare()
        await publish(publisher, PAID, TWO)
        assert await read(events, 2) == ids(PAID, TWO)


class Wire:
    """A port in front of a server. What the server says can be lost, and then the connection.

    Attributes:
        hears: How many more bytes of what the server says get through.
    """

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self._open: set[asyncio.StreamWriter] = set()
        self.hears = sys.maxsize

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._server.url.removeprefix("nats://").split(":")
        upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
        self._open |= {writer, upstream_writer}
        await asyncio.gather(
            self._copy(reader, upstream_writer, lossy=False),
            self._copy(upstream_reader, writer, lossy=True),
        )

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lossy: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if lossy:
                    data = data[: self.hears]
                    self.hears -= len(data)
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # It was cut.
        finally:
            writer.close()

    def cut(self) -> None:
        """Ends every connection; the next ones are good."""
        for writer in self._open:
            writer.close()
        self._open.clear()
        self.hears = sys.maxsize


@asynccontextmanager
async def wired(server: NatsServer) -> AsyncIterator[tuple[Wire, str]]:
    wire = Wire(server)
    listening = await asyncio.start_server(wire.carry, "127.0.0.1", 0)
    async with listening:
        yield wire, f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        wire.cut()


async def delivered(publisher: NatsPublisher, number: int) -> None:
    """Returns when the server has sent that many events to the only consumer."""
    assert publisher._stream is not None
    async with asyncio.timeout(5):
        while True:
            consumers = await publisher._stream.consumers_info("ORDERS")
            if consumers and consumers[0].delivered is not None:
                assert len(consumers) == 1
                if consumers[0].delivered.consumer_seq == number:
                    return
            await asyncio.sleep(0.01)


async def test_an_event_that_was_lost_on_the_way_is_read_though_none_follows(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE)
    async with wired(nats) as (wire, url), aclosing(order_events([url], from_start=True)) as events:
        assert await read(events, 1) == ids(ONE)
        reading = asyncio.create_task(read(events, 1))
        wire.hears = 0
        await publish(publisher, PAID)
        await delivered(publisher, 2)
        wire.cut()
        assert await reading == ids(PAID)


async def test_events_that_were_lost_on_the_way_are_read_before_those_that_follow(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    orders = [new_order(number) for number in range(300, 600)]
    await publish(publisher, *orders)
    async with wired(nats) as (wire, url), aclosing(order_events([url], from_start=True)) as events:
        wire.hears = 40_000
        reading = asyncio.create_task(read(events, len(orders) + 1))
        await delivered(publisher, len(orders))
        wire.cut()
        await publish(publisher, PAID)
        assert await reading == ids(*orders, PAID)


async def test_another_consumer_begins_after_what_was_read(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE, TWO)
    client = await connect([nats.url], name="tests", reconnect=False)
    reader = _Reader(client, "orders.>", 1)
    for order in (ONE, TWO):
        async with aclosing(reader.read()) as payloads:
            assert await anext(payloads) == encode_order_event(event_id(order), order)
    await close(client)


async def test_without_a_stream_it_says_that_nothing_was_published(nats: NatsServer) -> None:
    with pytest.raises(NotFound, match="nothing has been published yet"):
        await anext(order_events([nats.url]))


# --- the command -----------------------------------------------------------------------


async def start(server: NatsServer, *arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orderflow_client", "events", "tail", *arguments),
        env={"ORDERFLOW_NATS": server.url, "COLUMNS": "120"},
        stdout=PIPE,
        stderr=PIPE,
    )


async def lines(process: Process, number: int) -> list[str]:
    assert process.stdout is not None
    async with asyncio.timeout(20):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(number)]


async def interrupted(process: Process) -> tuple[int | None, bytes, bytes]:
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return process.returncode, out, err


async def test_tail_prints_a_line_for_each_event_until_ctrl_c(
    nats: NatsServer, publisher: NatsPublisher
) -> None:
    await publish(publisher, ONE, TWO, DECLINED)
    process = await start(nats, "--from-start")
    assert await lines(process, 3) == [
        f"{ONE.id}  2026-01-02T03:04:05.678901Z  version 1  PENDING_PAYMENT",
        f"{TWO.id}  2026-01-02T03:04:05.678901Z  version 1  PENDING_PAYMENT",
        f"{TWO.id}  2026-01-02T03:04:05.678901Z  version 2  PAYMENT_DECLINED  no funds",
    ]
    await publish(publisher, PAID)
    [line] = await lines(process, 1)
    assert line.endswith("version 2  PAID")
    assert await interrupted(process) == (130, b"", b"")


async def test_tail_of_one_order_as_json(nats: NatsServer, publisher: NatsPublisher) -> None:
    await publish(publisher, ONE, TWO, PAID)
    process = await start(nats, "--from-start", "--json", "--order", str(ONE.id))
    events = [json.loads(line) for line in await lines(process, 2)]
    assert [event["eventId"] for event in events] == ids(ONE, PAID)
    assert [event["order"]["state"] for event in events] == [
        "ORDER_STATE_PENDING_PAYMENT",
        "ORDER_STATE_PAID",
    ]
    assert await interrupted(process) == (130, b"", b"")


async def test_tail_says_what_is_missing(nats: NatsServer) -> None:
    async def ended(*arguments: str) -> tuple[int | None, str]:
        process = await start(nats, *arguments)
        _, err = await process.communicate()
        return process.returncode, err.decode()

    assert await ended() == (
        3,
        "error: NOT_FOUND: there is no stream ORDERS: nothing has been published yet\n",
    )
    code, error = await ended("--order", "orders.>")
    assert code == 2
    assert "valid UUID" in error
    await nats.stop()
    code, error = await ended("--order", str(order_id(1)))
    assert code == 4
    assert error.startswith("error: UNAVAILABLE: NATS cannot be reached")
