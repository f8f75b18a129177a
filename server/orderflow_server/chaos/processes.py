"""Processes that are started, stopped in order, killed, and never left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_STOP_TIMEOUT_S = 30.0
CHECKOUT = Path(__file__).resolve().parents[3]
"""Where deploy/ and .cache/ are, unless this was installed from a wheel."""


class CannotStart(Exception):
    """Something that a scenario needs is missing or does not start; the text says what."""


class Process:
    """One process, which can be started again after its end.

    Args:
        command: What runs.
        log: What it writes goes to the end of this file.
        environment: All of it.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, environment: Mapping[str, str]
    ) -> None:
        self._command = command
        self._log = log
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                # Ctrl-C is for this process, which then stops the others in order.
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """Return the code that it ended with, negative for a signal. None: it has not ended."""
        return None if self._process is None else self._process.returncode

    @property
    def pid(self) -> int | None:
        """None: it has not been started."""
        return None if self._process is None else self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Does nothing to one that has ended by itself."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """Without a word to it (SIGKILL)."""
        self.send(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> None:
        """In order (SIGTERM); after 30 s without."""
        self.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await self._ended()
        except TimeoutError:
            await self.kill()

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def last_words(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text(errors="replace")[-2000:]


def own_command(*arguments: str) -> list[str]:
    """A command of `orderflow-server`, as run by this Python."""
    return [sys.executable, "-m", "orderflow_server", *arguments]


def program(name: str) -> str | None:
    """Where an outside program is; None: it is not installed.

    Looked for in the checkout's .cache/bin, which `make` fills, beside this Python, where wheels
    put theirs, and in the PATH.
    """
    places = [str(CHECKOUT / ".cache" / "bin"), str(Path(sys.executable).parent)]
    return shutil.which(name, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
