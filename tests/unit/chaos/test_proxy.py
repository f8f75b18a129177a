from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orderflow_server.chaos.proxy import Network


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1024):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    """In front of a server that says what it hears."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Network(server.sockets[0].getsockname()[1]).serving() as made:
        yield made


@asynccontextmanager
async def connection(
    it: Network,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_a_whole_network_passes_on_what_is_sent() -> None:
    async with network() as it, connection(it) as (reader, writer):
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"


async def test_a_cut_is_silent_and_its_end_ends_the_connections() -> None:
    async with network() as it, connection(it) as (reader, writer):
        it.cut()
        writer.write(b"hello")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        it.mend()
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_after_a_cut_there_are_new_connections() -> None:
    async with network() as it:
        it.cut()
        it.mend()
        async with connection(it) as (reader, writer):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"


async def test_latency_is_paid_in_either_direction() -> None:
    async with network() as it, connection(it) as (reader, writer):
        it.latency_s = 0.05
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        writer.write(b"hello")
        await reader.readexactly(5)
        assert loop.time() - begun_s >= 0.099
