"""The first start, on a database without a schema: another process makes it."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.apart import upgraded_apart
from orderflow_server.storage.opening import lacks_steps, upgrade
from processes import run_server_command, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.mark.parametrize("tokens", [False, True])
async def test_a_server_with_a_file_keeps_no_library_that_it_has_no_use_for(
    tmp_path: Path, tokens: bool
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s" * 32)
    arguments = ["--set", f"token_secret={secret}"] if tokens else []
    async with server_process(tmp_path, arguments=arguments) as server:
        # Those of their modules that are compiled are files in its memory.
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()  # noqa: ASYNC240  # it is memory
    assert "/grpc/" in loaded
    for library in ("sqlalchemy", "asyncpg"):
        assert f"/{library}/" not in loaded
    assert ("/cryptography/" in loaded) == tokens


async def test_another_process_takes_the_steps_while_this_one_does_something_else(
    tmp_path: Path, postgres: TestDatabases
) -> None:
    async with postgres.new(empty=True) as url:
        for address in (DatabaseAddress(path=tmp_path / "orders.db"), DatabaseAddress.parse(url)):
            async with upgraded_apart(address):
                # Its interpreter has hardly begun.
                assert await lacks_steps(address)
            assert not await lacks_steps(address)


async def test_why_the_other_process_failed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    await upgrade(DatabaseAddress(path=path))
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("UPDATE alembic_version SET version_num = '0003'")
        file.commit()
    with pytest.raises(StoreUnavailable, match=f"{path} cannot be opened: duplicate column name"):
        async with upgraded_apart(DatabaseAddress(path=path)):
            pass
    code, output = await run_server_command(
        "serve", "--address", "127.0.0.1:0", "--database", str(path)
    )
    assert (code, output.count("duplicate column name")) == (1, 1)
    assert "Traceback" not in output


async def test_modules_that_lie_where_the_server_is_started_are_not_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sqlalchemy.py").write_text("raise SystemExit('not me')")
    monkeypatch.chdir(tmp_path)
    address = DatabaseAddress(path=tmp_path / "orders.db")
    async with upgraded_apart(address):
        pass
    assert not await lacks_steps(address)
