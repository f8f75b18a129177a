"""Other people's programs as processes: where they are, and when they answer."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from deploy.queries import ROOT


def program(name: str, how: str) -> str:
    """Where the program is, of those that `make e2e` builds or that the PATH has; else skips.

    Args:
        name: Of the program.
        how: How somebody gets it.
    """
    path = f"{ROOT / '.cache' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed: {how}")
    return found


@asynccontextmanager
async def started(
    *command: str, log: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs the program until the block ends.

    Args:
        command: Program and arguments.
        log: Where what it says is written.
        environment: Besides this process's own.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_answered(url: str, process: asyncio.subprocess.Process) -> None:
    """Returns when the process answers there with 200; fails when it ends instead."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(30):
        while not await _answers(http, url):
            assert process.returncode is None, "it ended, see its log"
            await asyncio.sleep(0.05)


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False
