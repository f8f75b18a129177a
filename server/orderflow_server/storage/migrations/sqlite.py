"""A SQLite file is brought up to date under its write lock."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.database_file import DatabaseFile, make_private, mark
from orderflow_server.storage.migrations.steps import (
    behind,
    lacks_steps,
    require_current,
    take_steps,
)

_BUSY_TIMEOUT_S = 5.0


def upgrade_sqlite(connection: sqlite3.Connection) -> None:
    """Takes the steps that are missing, all or none; of several processes, one does.

    The file is marked as Orderflow's with the first of them, or when it is without the mark.

    Raises:
        sqlite3.Error: The database failed, or another process held it for too long.
        StoreUnavailable: It is further ahead than this server can work with.
    """
    if not behind(_revision(connection)):
        mark(connection)
        return

    import sqlalchemy

    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
    try:
        with engine.begin() as borrowed:
            # The driver would begin with the first write only, and never with a CREATE TABLE.
            connection.execute("BEGIN IMMEDIATE")
            take_steps(borrowed)
            mark(connection)
    except sqlalchemy.exc.DBAPIError as error:
        raise (error.orig or error) from None  # what it wraps is what callers know


def require_current_sqlite(connection: sqlite3.Connection) -> None:
    """Returns when the schema is there and up to date; changes nothing.

    Raises:
        sqlite3.Error: The database failed.
        StoreUnavailable: It is not.
    """
    require_current(_revision(connection))


def upgrade_file(path: Path) -> None:
    """Does so with the file at a path, which is made when it is missing.

    Raises:
        StoreUnavailable: It cannot be done.
    """
    make_private(path)
    with closing(DatabaseFile(path)) as file, _opened(file) as connection:
        upgrade_sqlite(connection)


def sqlite_lacks_steps(path: Path) -> bool:
    """Returns whether steps are missing from the file at a path, or the file itself.

    Raises:
        StoreUnavailable: The file cannot be opened, or is another program's.
    """
    if not path.exists():
        return True
    with closing(DatabaseFile(path)) as file, _opened(file) as connection:
        return lacks_steps(_revision(connection))


@contextmanager
def _opened(file: DatabaseFile) -> Iterator[sqlite3.Connection]:
    try:
        with closing(file.connect(timeout_s=_BUSY_TIMEOUT_S)) as connection:
            yield connection
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the database {file.path} cannot be opened: {error}") from error


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if known.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else row[0]
