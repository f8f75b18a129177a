"""A SQLite file is brought up to date under its write lock."""

from __future__ import annotations

import sqlite3

from orderflow_server.storage.migrations.steps import behind, take_steps


def upgrade_sqlite(connection: sqlite3.Connection) -> None:
    """Takes the steps that are missing, all or none; of several processes, one does.

    Raises:
        sqlite3.Error: The database failed, or another process held it for too long.
        StoreUnavailable: It is further ahead than this server can work with.
    """
    if not behind(_revision(connection)):
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
    except sqlalchemy.exc.DBAPIError as error:
        raise (error.orig or error) from None  # what it wraps is what callers know


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if known.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else row[0]
