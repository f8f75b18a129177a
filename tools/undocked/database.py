"""The service `postgres` without docker: a PostgreSQL from a wheel, set up as its image does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from undocked.compose import Service

from fakes.postgres import PostgresProcess, postgres_process

IMAGE = "postgres"
PORT_THERE = 5432


@asynccontextmanager
async def database(service: Service) -> AsyncIterator[str]:
    """Runs it, with the user and the database that the service's environment asks for.

    Yields:
        Where it listens, host:port. Nobody is asked for a password.
    """
    with postgres_process({}) as process:
        await _set_up(process, service)
        yield f"127.0.0.1:{process.port}"


async def _set_up(process: PostgresProcess, service: Service) -> None:
    user, name = (service.environment[f"POSTGRES_{what}"] for what in ("USER", "DB"))
    connection = await asyncpg.connect(process.url)
    try:
        await connection.execute(f'CREATE ROLE "{user}" LOGIN')
        await connection.execute(f'CREATE DATABASE "{name}" OWNER "{user}"')
    finally:
        await connection.close()
