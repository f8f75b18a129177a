"""The schema is brought up to date in a process of its own, which takes alembic's memory with it.

Alembic and SQLAlchemy are 21 MB, which a server that had taken a step itself would keep to its end.
A fork would not do: gRPC has threads.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.migrations.__main__ import ADDRESS_VARIABLE, UNAVAILABLE
from orderflow_server.storage.opening import lacks_steps


@asynccontextmanager
async def upgraded_apart(database: DatabaseAddress) -> AsyncIterator[None]:
    """The schema is up to date when the block has ended, which may do something else meanwhile.

    Where nothing is to be done there is no other process. When the block fails or is cancelled, the
    steps are not taken, unless they have been already.

    Raises:
        StoreUnavailable: The database cannot be opened, or a step cannot be taken.
    """
    if not await lacks_steps(database):
        yield
        return
    process = await asyncio.create_subprocess_exec(
        # Modules come from where this process has its own, not (-P) from the directory it is in.
        *(sys.executable, "-P", "-m", "orderflow_server.storage.migrations"),
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            # Not an argument, which everybody on the machine may read: a URL has a password in it.
            ADDRESS_VARIABLE: str(database.path or database.url),
        },
        stdout=PIPE,
        # Not of the terminal's group: its Ctrl-C is for the server, which ends this one.
        start_new_session=True,
    )
    try:
        yield
        said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == UNAVAILABLE:
        raise StoreUnavailable(said.decode(errors="replace"))
    if process.returncode != 0:
        raise StoreUnavailable(f"the step of its schema ended with {process.returncode}")
