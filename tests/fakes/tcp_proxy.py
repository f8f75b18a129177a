"""A way to a server that can be cut: what is sent on it arrives, or it does not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TcpProxy:
    """Passes on what is sent on each connection through it.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        requests_pass, answers_pass: Whether what the client or the server sends is passed on.
            What is not passed on is lost.
        lost: How many bytes of answers were.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests_pass = True
        self.answers_pass = True
        self.lost = 0

    def cut(self) -> None:
        """Ends the connections there are."""
        for connection in self._connections:
            connection.cancel()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            try:
                await asyncio.gather(
                    self._pass_on(client, to_server, answers=False),
                    self._pass_on(server, to_client, answers=True),
                )
            finally:
                to_server.close()
        except (OSError, asyncio.CancelledError):
            pass  # the end of the connection, which the client sees
        finally:
            to_client.transport.abort()
            self._connections.discard(task)

    async def _pass_on(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await source.read(65536):
            if self.answers_pass if answers else self.requests_pass:
                sink.write(data)
                await sink.drain()
            elif answers:
                self.lost += len(data)
        if answers and not self.answers_pass:
            await asyncio.Event().wait()  # that it has ended is lost, too
        raise ConnectionResetError("one side has ended")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TcpProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            while self._connections:
                with contextlib.suppress(asyncio.CancelledError):
                    await next(iter(self._connections))
            await server.wait_closed()
