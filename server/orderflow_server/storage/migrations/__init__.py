"""The schema, in steps, and how a database is brought up to the last of them.

Alembic takes the steps. It and SQLAlchemy take longer to import than a database that is up to
date takes to open, so they are imported only when there is a step to take.
"""

from __future__ import annotations

import sqlite3

HEAD = "0002"
"""The last step under `versions/`."""


def upgrade_sqlite(connection: sqlite3.Connection) -> None:
    """Takes the steps that are missing, all or none; of several processes, one does.

    Raises:
        sqlite3.Error: The database failed, or another process held it for too long.
        alembic.util.CommandError: A later version of the service has taken steps unknown here.
    """
    if _revision(connection) == HEAD:
        return

    import sqlalchemy
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "orderflow_server.storage:migrations")
    config.set_main_option("path_separator", "os")
    engine = sqlalchemy.create_engine(
        "sqlite://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
    try:
        with engine.begin() as borrowed:
            # The driver would begin with the first write only, and never with a CREATE TABLE.
            connection.execute("BEGIN IMMEDIATE")
            # Alembic looks again, under the lock: another process may have been faster.
            config.attributes["connection"] = borrowed
            command.upgrade(config, HEAD)
    except sqlalchemy.exc.DBAPIError as error:
        raise (error.orig or error) from None  # what it wraps is what callers know


def _revision(connection: sqlite3.Connection) -> str | None:
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")
    if known.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else row[0]
