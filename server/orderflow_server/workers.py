"""Several server processes on one port: the kernel gives each connection to one of them.

One Python process is one event loop on one core. The supervisor starts the processes, starts one
again that ends by itself, and passes on the word to stop. They notice when the supervisor is
gone, however it went: each holds the end of a pipe from it, as its standard input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from orderflow_server.configuration import CONFIG_VARIABLE, SECRETS_VARIABLE
from orderflow_server.settings import Settings

log = structlog.get_logger("orderflow.workers")

_FIRST_REST_S = 0.5
_MAX_REST_S = 30.0


DATABASE_LOST = 4
"""The exit code of a worker whose database is gone for good. It is not started again: that would
make a new database, and nobody would miss the old one."""


class WorkerFailed(Exception):
    """A worker ended and would not serve if it was started again: it lacks something it needs.

    Attributes:
        code: Its exit code.
    """

    def __init__(self, code: int) -> None:
        when = "as it lost its database" if code == DATABASE_LOST else "before it served"
        super().__init__(f"a worker ended with {code} {when}")
        self.code = code


@contextmanager
def reserved_port(address: str) -> Iterator[str]:
    """Keeps a port for processes that share it; yields the address, port 0 as the port it got.

    Raises:
        OSError: The address cannot be bound.
    """
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, where = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    )[0]
    # Bound and never listening: connections go to those that listen.
    with socket.socket(family, kind, protocol) as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(where)
        yield f"{host}:{kept.getsockname()[1]}"


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes.

    Attributes:
        settings: Those of each, `workers` aside. Its ops port is that of the first; the others have
            the ports after it.
    """

    settings: Settings

    async def run(self, stop: asyncio.Event, on_serving: Callable[[], None]) -> None:
        """Keeps them running until `stop`, and then until the last has ended.

        Args:
            stop: Set when they are to end.
            on_serving: Called once, when all of them serve.

        Raises:
            WorkerFailed: One ended before all had served for the first time, or lost its database;
                the others are stopped.
        """
        serving = [asyncio.Event() for _ in range(self.settings.workers)]
        async with asyncio.TaskGroup() as group:
            kept = [
                group.create_task(self._keep(number, stop, event), name=f"worker {number}")
                for number, event in enumerate(serving)
            ]
            all_serve = group.create_task(_all_set(serving), name="all workers serve")
            await asyncio.wait([all_serve, *kept], return_when=asyncio.FIRST_COMPLETED)
            if all_serve.done():
                on_serving()
            all_serve.cancel()

    async def _keep(self, number: int, stop: asyncio.Event, serving: asyncio.Event) -> None:
        """One of them, started again whenever it ends by itself."""
        rest_s = _FIRST_REST_S
        stopping = asyncio.create_task(_all_set([stop]))
        try:
            while not stop.is_set():
                code = await self._once(number, stopping, serving)
                if stop.is_set():
                    return
                if not serving.is_set() or code == DATABASE_LOST:
                    raise WorkerFailed(code)
                log.error("a worker ended, it is started again", worker=number, code=code)
                await asyncio.wait({stopping}, timeout=rest_s)
                rest_s = min(rest_s * 2, _MAX_REST_S)
        finally:
            stopping.cancel()

    async def _once(self, number: int, stopping: asyncio.Task[None], serving: asyncio.Event) -> int:
        """Runs it until it ends; returns its exit code."""
        told, tell = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "orderflow_server", "serve"),
                env=self._environment(number, ready_fd=tell),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(tell,),
                # Not of the terminal's group: its Ctrl-C is for the supervisor alone.
                start_new_session=True,
            )
        finally:
            os.close(tell)
        loop = asyncio.get_running_loop()

        def on_told() -> None:
            loop.remove_reader(told)
            if os.read(told, 1):
                serving.set()

        loop.add_reader(told, on_told)
        ended = asyncio.create_task(process.wait())
        either: list[asyncio.Task[Any]] = [ended, stopping]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when another worker has failed and this task is cancelled.
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            code = await asyncio.shield(ended)
            loop.remove_reader(told)
            os.close(told)
        return code

    def _environment(self, number: int, *, ready_fd: int) -> dict[str, str]:
        """Its settings are those that this process has read, whatever the files say by now."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in (CONFIG_VARIABLE, SECRETS_VARIABLE)
        }
        host, _, port = self.settings.ops_address.rpartition(":")
        ops_port = int(port) + number if int(port) else 0
        changes = {"ops_address": f"{host}:{ops_port}", "workers": 1, "ready_fd": ready_fd}
        return inherited | self.settings.model_copy(update=changes).environment()


async def _all_set(events: Iterable[asyncio.Event]) -> None:
    for event in events:
        await event.wait()
