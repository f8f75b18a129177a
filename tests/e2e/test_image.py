"""The image that the Dockerfile makes, built and run without docker."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, STDOUT

import pytest
from deploy.queries import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NOT_BUILT = 77


async def test_it_serves_as_its_own_user_on_a_read_only_root_and_ends_when_told() -> None:
    process = await asyncio.create_subprocess_exec(
        ROOT / "tools" / "image.sh", stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate()
    output = said.decode()
    print(f"\n{output}")  # noqa: T201  for who runs it with -s
    if process.returncode == NOT_BUILT:
        pytest.skip(output.strip().splitlines()[-1])
    assert process.returncode == 0, output
    assert "says SERVING" in output
    assert "an order is ORDER_STATE_PAID" in output
    assert "ended with 0 after SIGTERM" in output
