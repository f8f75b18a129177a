"""A real NATS server with JetStream, from a wheel, as a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from orderflow_server.chaos import nats


class NatsServer(nats.NatsServer):
    """One that can be frozen, too."""

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send(signal.SIGSTOP)
        # Its threads stop one by one, some after the signal was sent.
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(_state(thread) != "T" for thread in threads.iterdir()):
            time.sleep(0.001)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send(signal.SIGCONT)


def _state(thread: Path) -> str:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def nats_server(directory: Path, *arguments: str) -> AsyncIterator[NatsServer]:
    """Running when this yields."""
    server = NatsServer(directory, *arguments)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
