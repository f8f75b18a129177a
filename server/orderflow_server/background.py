"""What runs beside the calls for as long as the service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog

from orderflow_server.events.changes import ChangeHub
from orderflow_server.settings import Settings

log = structlog.get_logger("orderflow.background")

_UNTOLD_S = 5.0
_UNTOLD_BY_SQLITE_S = 0.5


@asynccontextmanager
async def background(work: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs all of it until the block ends; then what has not ended by itself is cancelled.

    None of it fails unless by a mistake in the program. Then the others go on, and the log says
    so at once.
    """
    tasks = {asyncio.create_task(each, name=name) for name, each in work.items()}
    for task in tasks:
        task.add_done_callback(_tell_of_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _tell_of_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background work failed", work=task.get_name(), exc_info=error)


async def look_for_changes(hub: ChangeHub, settings: Settings) -> None:
    """Has the watchers look themselves, where another process may have changed an order unheard.

    PostgreSQL tells of changes; this is for what gets lost on the way. SQLite does not.
    """
    if settings.database.path is None:
        interval_s = _UNTOLD_S
    elif settings.supervised:
        interval_s = _UNTOLD_BY_SQLITE_S
    else:
        return
    while True:
        await asyncio.sleep(interval_s)
        hub.publish_all()
