"""Starts the services of docker-compose.yml as processes of this machine, and ends them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from undocked import programs
from undocked.compose import Service
from undocked.database import IMAGE as POSTGRES
from undocked.database import PORT_THERE, database
from undocked.place import Place, places

START_S = 60.0
"""How long a service may take to become healthy."""
STOP_S = 30.0
_POLL_S = 0.2
_LOG_LINES = 20


class DoesNotRun(Exception):
    """A service ended by itself or does not become healthy; the text has the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What runs.

    Attributes:
        addresses: Of what runs, by the name of the service.
        absent: Why the others do not run.
        processes: Of those that run.
    """

    addresses: Mapping[str, str]
    absent: Mapping[str, str]
    processes: Mapping[str, asyncio.subprocess.Process]

    def ended(self) -> list[str]:
        """The services that should run and do not."""
        return [name for name, each in self.processes.items() if each.returncode is not None]


@asynccontextmanager
async def running(
    services: Sequence[Service],
    scratch: Path,
    *,
    network: str,
    hurried: Mapping[str, str],
    tell: Callable[[str], None],
) -> AsyncIterator[Stack]:
    """Everything that is present runs and is healthy when this yields, and is gone afterwards.

    Args:
        services: Each after those that it needs.
        scratch: For their files and logs.
        network: The first three numbers of their addresses.
        hurried: Variables for all of them, besides their own.
        tell: Is told what happens.

    Raises:
        DoesNotRun: A service does not come up.
    """
    absent: dict[str, str] = {}
    addresses: dict[str, str] = {}
    processes: dict[str, asyncio.subprocess.Process] = {}
    async with AsyncExitStack() as stack:
        elsewhere = {}
        for service in services:
            if service.image == POSTGRES:
                elsewhere[f"{service.name}:{PORT_THERE}"] = await stack.enter_async_context(
                    database(service)
                )
                tell(f"{service.name} runs")
        for name, place in places(services, scratch, network, elsewhere).items():
            if place.service.image == POSTGRES:
                continue
            program, how = programs.PROGRAMS[place.service.image]
            if programs.found(program) is None:
                absent[name] = f"there is no {program}: {how}"
                tell(f"{name} does not run, {absent[name]}")
                continue
            processes[name] = await stack.enter_async_context(_process(place, program, hurried))
            addresses[name] = place.address
            tell(f"{name} runs")
        yield Stack(addresses=addresses, absent=absent, processes=processes)


@asynccontextmanager
async def _process(
    place: Place, program: str, hurried: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    place.furnish()
    service = place.service
    environment = {
        "PATH": programs.PATH,
        "HOME": str(place.directory),
        **{name: place.rendered(value) for name, value in service.environment.items()},
        **hurried,
    }
    cwd = place.at(service.working_directory) if service.working_directory else place.directory
    cwd.mkdir(parents=True, exist_ok=True)
    log = place.directory / "log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(service.entrypoint or [program]),
            *map(place.rendered, service.command),
            cwd=cwd,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the tool, which then ends them in order
        )
    try:
        try:
            async with asyncio.timeout(START_S):
                await _until_healthy(place, process, environment)
        except TimeoutError as error:
            raise DoesNotRun(f"{service.name} is not healthy\n{_end_of(log)}") from error
        yield process
    finally:
        await _end(process)


async def _until_healthy(
    place: Place, process: asyncio.subprocess.Process, environment: Mapping[str, str]
) -> None:
    """Asks as docker would."""
    while True:
        if process.returncode is not None:
            log = _end_of(place.directory / "log")
            raise DoesNotRun(f"{place.service.name} ended with {process.returncode}\n{log}")
        if not place.service.health or await _is_well(place, environment):
            return
        await asyncio.sleep(_POLL_S)


async def _is_well(place: Place, environment: Mapping[str, str]) -> bool:
    program, *arguments = map(place.rendered, place.service.health)
    asked = await asyncio.create_subprocess_exec(
        # Programs are not where they are in the image.
        *(Path(program).name, *arguments),
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asked.wait() == 0


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
