"""What the README shows is what happens: its examples are run as they stand, but for the port."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from processes import ServerProcess, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
TRY_IT = README.partition("## Try it")[2].partition("\n## ")[0]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TRY_IT, flags=re.DOTALL)


async def run(server: ServerProcess, *command: str, script: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        script.replace("127.0.0.1:50051", server.address),
        cwd=ROOT,
        env={**os.environ, "ORDERFLOW_TARGET": server.address},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_the_python_example(tmp_path: Path) -> None:
    [example] = blocks("python")
    async with server_process(tmp_path) as server:
        output = await run(server, sys.executable, "-c", script=example)
    assert "INVALID_REQUEST" in output


async def test_the_commands(tmp_path: Path) -> None:
    grpcurl, orderflow = blocks("sh")
    async with server_process(tmp_path) as server:
        output = await run(server, "sh", "-ec", script=orderflow)
        assert "SERVING" in output
        if shutil.which("grpcurl") is None:
            pytest.skip("grpcurl is not installed: `make e2e` builds it where Go is present")
        output = await run(server, "sh", "-ec", script=grpcurl)
        assert "ORDER_STATE_PAID" in output
