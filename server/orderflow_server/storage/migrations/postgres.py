"""A PostgreSQL database is brought up to date under an advisory lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from orderflow_server.storage.migrations.steps import (
    behind,
    lacks_steps,
    require_current,
    take_steps,
)

if TYPE_CHECKING:
    import asyncpg

_LOCK = 0x6F72_6465_7266_6C6F
"""The advisory lock's number: "orderflo" in ASCII, which is hardly anybody else's."""

Connect = Callable[[], "Awaitable[asyncpg.Connection]"]


async def upgrade_postgres(connect: Connect) -> None:
    """Takes the steps that are missing, all or none; of several replicas, one does.

    The others wait until it has, for as long as a statement on their connections may take.

    Args:
        connect: Makes a connection, which is closed here.

    Raises:
        asyncpg.PostgresError, OSError: The database failed.
        StoreUnavailable: It is further ahead than this server can work with.
    """
    if not behind(await _revision(connect)):
        return

    import sqlalchemy
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=sqlalchemy.NullPool
    )
    try:
        async with engine.begin() as borrowed:
            await borrowed.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_LOCK)))
            await borrowed.run_sync(take_steps)
    except sqlalchemy.exc.DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        raise (cause or error) from None  # what it wraps, twice, is what callers know
    finally:
        await engine.dispose()


async def require_current_postgres(connect: Connect) -> None:
    """Returns when the schema is there and up to date; changes nothing.

    Raises:
        asyncpg.PostgresError, OSError: The database failed.
        StoreUnavailable: It is not.
    """
    require_current(await _revision(connect))


async def postgres_lacks_steps(connect: Connect) -> bool:
    """Says whether steps are missing.

    Raises:
        asyncpg.PostgresError, OSError: The database failed.
        StoreUnavailable: It is another program's.
    """
    return lacks_steps(await _revision(connect))


async def _revision(connect: Connect) -> str | None:
    connection = await connect()
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
        return revision
    finally:
        await connection.close()
