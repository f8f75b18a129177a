"""The network between two processes, which can be cut or made slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 65_536


class Network:
    """Passes on what is sent on each connection through it.

    Args:
        target_port: Where to, on 127.0.0.1.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        latency_s: How long each piece of data takes, in either direction.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[asyncio.Task[None]] = set()
        self._whole = asyncio.Event()
        self._whole.set()
        self.port = 0
        self.latency_s = 0.0

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told: neither data nor the end of it."""
        self._whole.clear()

    def mend(self) -> None:
        """What was under way is lost, and so are the connections it was under way on."""
        for connection in self._connections:
            connection.cancel()
        self._whole.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Network]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            ending = list(self._connections)
            for connection in ending:
                connection.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        connection = asyncio.ensure_future(self._connect(client, to_client))
        self._connections.add(connection)
        try:
            await connection
        except (OSError, asyncio.CancelledError):
            pass  # the end of the connection, which both sides see
        finally:
            to_client.transport.abort()
            self._connections.discard(connection)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        directions = [
            asyncio.ensure_future(self._pass_on(client, to_server)),
            asyncio.ensure_future(self._pass_on(server, to_client)),
        ]
        try:
            # When one side has ended, so has the other.
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            to_server.transport.abort()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_CHUNK_BYTES):
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            await self._whole.wait()
            sink.write(data)
            await sink.drain()
