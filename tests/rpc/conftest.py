from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from harness import Service, running_service


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with running_service(tmp_path) as running:
        yield running
