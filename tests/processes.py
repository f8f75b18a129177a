"""Real processes of the project's own commands, for the tests in which a process matters."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orderflow_client import OrderClient, OrderflowError
from orderflow_server.free_port import free_port

__all__ = ["ServerProcess", "free_port", "run_server_command", "server_process", "until_serving"]


@dataclass(frozen=True)
class ServerProcess:
    """`orderflow-server serve` as a process of its own."""

    process: asyncio.subprocess.Process
    address: str
    ops_address: str
    directory: Path

    @property
    def stdout(self) -> str:
        return (self.directory / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()


@asynccontextmanager
async def server_process(
    directory: Path,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    until_serves: bool = True,
    stdout: int | None = None,
    stderr: int | None = None,
    closed: Sequence[int] = (),
) -> AsyncIterator[ServerProcess]:
    """Serving when this yields; killed at the end when it still runs.

    Args:
        directory: For its database, unless it is given another, and for what it writes.
        arguments: More of `serve`; the last of a kind counts.
        environment: More of it.
        until_serves: Yield only then.
        stdout: A descriptor instead of the file `stdout` in the directory.
        stderr: A descriptor instead of the file `stderr` in the directory.
        closed: Descriptors that the process starts without.
    """
    # A shell can start a program without a descriptor; `subprocess` cannot.
    without = ("sh", "-c", f'exec "$@" {" ".join(f"{each}>&-" for each in closed)}', "sh")
    address, ops_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    with (directory / "stdout").open("ab") as out, (directory / "stderr").open("ab") as err:
        process = await asyncio.create_subprocess_exec(
            *(without if closed else ()),
            sys.executable,
            *("-m", "orderflow_server", "serve", "--address", address),
            *("--ops-address", ops_address),
            *("--database", str(directory / "orders.db"), "--log-format", "json"),
            *arguments,
            env={**os.environ, **(environment or {})},
            stdout=out if stdout is None else stdout,
            stderr=err if stderr is None else stderr,
        )
    server = ServerProcess(process, address, ops_address, directory)
    try:
        if until_serves:
            async with OrderClient(address) as client:
                await until_serving(client, server)
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until_serving(
    client: OrderClient, server: ServerProcess | None = None, *, timeout_s: float = 20.0
) -> None:
    """Fails at once when the server, if it is given, has ended."""
    async with asyncio.timeout(timeout_s):
        while True:
            assert server is None or server.process.returncode is None, server.stderr
            try:
                if await client.health() == "SERVING":
                    return
            except OrderflowError:
                # Nothing listens there yet.
                pass
            await asyncio.sleep(0.02)


async def run_server_command(*arguments: str, **environment: str) -> tuple[int, str]:
    """Runs `orderflow-server` to its end; its exit code and all that it wrote."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "orderflow_server", *arguments),
        env=os.environ | {"ORDERFLOW_OPS_ADDRESS": "127.0.0.1:0"} | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
