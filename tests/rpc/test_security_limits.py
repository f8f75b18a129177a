"""Peers that ask for too much: each is refused, and others are served all the while."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from fakes.raw_http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    RST_STREAM,
    SETTINGS,
    block,
    indexed,
    literal,
    raw_http2,
    remembered,
)
from harness import Service, create_request, failure_of, running_service, until
from orderflow.v1 import order_service_pb2 as pb

LIST, WATCH, CREATE = (
    f"/orderflow.v1.OrderService/{name}" for name in ("ListOrders", "WatchOrder", "CreateOrder")
)


@asynccontextmanager
async def others_are_served(service: Service) -> AsyncIterator[None]:
    """Somebody else calls all the while, and nothing happens to those calls."""
    over = asyncio.Event()

    async def call() -> None:
        while not over.is_set():
            await service.stub.ListOrders(pb.ListOrdersRequest(), timeout=15)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(call())
        try:
            yield
        finally:
            over.set()


async def test_metadata_that_is_too_large_is_refused(service: Service) -> None:
    async with others_are_served(service):
        call = service.stub.ListOrders(
            pb.ListOrdersRequest(), metadata=(("x-bomb", "x" * 20_000),), timeout=15
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_small_headers_that_stand_for_large_ones_are_refused(service: Service) -> None:
    """4 KB are sent once and then named 4000 times, a byte each: 16 MB when written out."""
    async with (
        others_are_served(service),
        asyncio.timeout(30),
        raw_http2(service.app.address) as peer,
    ):
        bomb = block(LIST) + remembered("x-bomb", "x" * 4000) + indexed(62) * 4000
        await peer.send(HEADERS, END_HEADERS, 1, bomb)
        answer = await peer.first(HEADERS, RST_STREAM, GOAWAY)
        # No call of it: the stream is refused with a status, or the connection ends.
        if answer is not None and answer.type == HEADERS:
            assert b"grpc-status" in answer.payload
            assert b"x" * 100 not in answer.payload
    assert service.app.rpc.chain.calls == 0


async def test_headers_without_end_are_not_kept(service: Service) -> None:
    async with (
        others_are_served(service),
        asyncio.timeout(30),
        raw_http2(service.app.address) as peer,
    ):
        await peer.send(HEADERS, 0, 1, block(LIST))
        before = resident_bytes()
        for number in range(12_000):
            await peer.send(CONTINUATION, 0, 1, literal(f"x-{number}", "x" * 16_000))
        # 192 MB were sent. What is read and thrown away takes some 60 MB, however much it is.
        assert resident_bytes() - before < 120 * 1024 * 1024
        await peer.send(CONTINUATION, END_HEADERS, 1)
        answer = await peer.first(HEADERS, RST_STREAM, GOAWAY)
        assert answer is not None
        assert b"grpc-status\x018" in answer.payload  # RESOURCE_EXHAUSTED
    assert service.app.rpc.chain.calls == 0


def resident_bytes() -> int:
    """The memory of this process, which is also the server's."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_message_that_is_too_large_is_refused(service: Service) -> None:
    async with others_are_served(service):
        request = create_request(payment_token="x" * (1024 * 1024 + 1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.CreateOrder(request, timeout=15)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_message_that_says_it_is_too_large_is_refused_before_it_comes(
    service: Service,
) -> None:
    async with (
        others_are_served(service),
        asyncio.timeout(30),
        raw_http2(service.app.address) as peer,
    ):
        await peer.send(HEADERS, END_HEADERS, 1, block(CREATE))
        await peer.send(DATA, 0, 1, b"\0\xff\xff\xff\xff" + b"x" * 100)
        answer = await peer.first(HEADERS, RST_STREAM, GOAWAY)
        assert answer is not None
        assert b"grpc-status\x018" in answer.payload  # RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\0" * 600, b"\xff" * 5000]
)
async def test_what_is_no_http2_gets_no_connection(service: Service, noise: bytes) -> None:
    async with others_are_served(service), asyncio.timeout(30):
        host, _, port = service.app.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(noise)
        with suppress(ConnectionError):
            await reader.read()  # until the server hangs up
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, handshake_timeout_s=0.5) as service,
        others_are_served(service),
        asyncio.timeout(30),
    ):
        host, _, port = service.app.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        await reader.read()
        writer.close()


async def test_calls_that_are_cancelled_as_soon_as_they_begin_leave_nothing(
    service: Service,
) -> None:
    """CVE-2023-44487: each takes the peer a few bytes."""
    async with (
        others_are_served(service),
        asyncio.timeout(30),
        raw_http2(service.app.address) as peer,
        asyncio.TaskGroup() as tasks,
    ):
        # It takes the answers, or the server would wait for it.
        reading = tasks.create_task(peer.first(GOAWAY))
        with suppress(ConnectionError):  # The server may have had enough of it.
            for stream in range(1, 2001, 2):
                await peer.call(stream, LIST, b"")
                await peer.send(RST_STREAM, 0, stream, (8).to_bytes(4))
        reading.cancel()
    await until(lambda: service.app.rpc.chain.calls == 0, timeout_s=15)
    assert service.app.limits.unary.in_flight == 0


async def test_a_watcher_that_does_not_read_gives_its_place_back(tmp_path: Path) -> None:
    async with running_service(tmp_path, stalled_stream_s=0.2, max_streams=1) as service:
        order = (await service.stub.CreateOrder(create_request())).order
        request = pb.WatchOrderRequest(order_id=order.id)
        with capture_logs() as lines:
            async with (
                others_are_served(service),
                # Its window is closed: no byte of a message may be sent.
                raw_http2(service.app.address, {INITIAL_WINDOW_SIZE: 0}) as peer,
            ):
                await peer.call(1, WATCH, request.SerializeToString())
                await until(lambda: service.app.limits.streams.in_flight == 1)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await anext(aiter(service.stub.WatchOrder(request)))
                assert failure_of(caught.value).reason == "OVERLOADED"
                await until(lambda: service.app.limits.streams.in_flight == 0)
                async for change in service.stub.WatchOrder(request):
                    assert change.order == order
                    break
        assert [line["event"] for line in lines].count("a caller does not read, its call ends") == 1


async def test_past_so_many_connections_new_ones_are_closed_and_the_old_ones_served(
    tmp_path: Path,
) -> None:
    async with (
        running_service(tmp_path, max_connections=10) as service,
        others_are_served(service),
        asyncio.timeout(30),
    ):
        await service.stub.ListOrders(pb.ListOrdersRequest())
        host, _, port = service.app.address.rpartition(":")
        peers = [await asyncio.open_connection(host, int(port)) for _ in range(30)]
        # One of the ten is of those that are served.
        await until(lambda: sum(map(_is_closed, peers)) == 30 - 9, timeout_s=15)
        for _, writer in peers:
            writer.close()
        async with grpc.aio.insecure_channel(service.app.address) as channel:
            await channel.channel_ready()


def _is_closed(peer: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
    reader, _ = peer
    # To the others the server has said its settings, which nobody has read.
    return reader.at_eof() or reader.exception() is not None


async def test_an_old_connection_takes_no_more_calls_and_its_calls_go_on(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, connection_age_s=0.3) as service,
        raw_http2(service.app.address) as peer,
        asyncio.timeout(30),
    ):
        order = (await service.stub.CreateOrder(create_request())).order
        watch = aiter(service.stub.WatchOrder(pb.WatchOrderRequest(order_id=order.id)))
        assert (await anext(watch)).order.version == 2
        assert await peer.first(GOAWAY) is not None
        await service.client.cancel_order(order.id)
        assert (await anext(watch)).order.version == 3


async def test_a_connection_is_told_how_many_calls_it_may_have(tmp_path: Path) -> None:
    async with (
        running_service(tmp_path, max_streams_per_connection=7) as service,
        raw_http2(service.app.address) as peer,
        asyncio.timeout(10),
    ):
        settings = await peer.first(SETTINGS)
        assert settings is not None
        assert MAX_CONCURRENT_STREAMS.to_bytes(2) + (7).to_bytes(4) in settings.payload
