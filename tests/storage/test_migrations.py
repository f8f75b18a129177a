"""How a database is brought up to date."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from orderflow_server.storage import migrations
from orderflow_server.storage.store import open_sqlite_store

OPEN = """
import asyncio, sys
from pathlib import Path
from orderflow_server.storage.store import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])) as store:
        await store.ping()

def run():
    asyncio.run(main())
"""


async def create(path: Path) -> None:
    async with open_sqlite_store(path):
        pass


def test_the_head_in_the_code_is_the_last_of_the_steps() -> None:
    config = Config()
    config.set_main_option("script_location", "orderflow_server.storage:migrations")
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


async def test_a_new_file_is_made_and_uses_a_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    await create(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
        (migrations.HEAD,)
    ]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_a_database_that_is_up_to_date_opens_without_alembic(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    await create(path)
    loaded = "print(sorted({'alembic', 'sqlalchemy'} & sys.modules.keys()))"
    program = f"{OPEN}\nrun()\n{loaded}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, path, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"[]\n")


async def test_processes_that_start_at_once_on_a_new_file_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    # All is imported before the start is given, so that they really meet.
    program = f"{OPEN}\nimport alembic.command\nprint('ready', flush=True)\ninput()\nrun()"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ends = await asyncio.gather(*(process.communicate(b"\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * 2, ends


async def test_a_step_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE events (sequence INTEGER)")  # in the way of the last table
    with pytest.raises(sqlite3.OperationalError, match="events"):
        migrations.upgrade_sqlite(connection)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("events",)]
    assert not connection.in_transaction
    connection.close()
