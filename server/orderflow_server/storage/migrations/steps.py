"""Which steps there are, and how they are taken.

Alembic takes them. It and SQLAlchemy take longer to import than a database that is up to date takes
to open, so they are imported only when there is a step to take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from orderflow_server.orders.errors import StoreUnavailable

if TYPE_CHECKING:
    import sqlalchemy

HEAD = "0004"
"""The last step under `versions/`. They are numbered."""

log = structlog.get_logger("orderflow.store")


def require_current(revision: str | None) -> None:
    """Returns when this program can use a database at `revision` without any step.

    Raises:
        StoreUnavailable: Steps are missing, or it is further ahead than this program can work with.
    """
    if revision is None:
        raise StoreUnavailable("the database has no Orderflow schema")
    if behind(revision):
        raise StoreUnavailable(
            f"the schema is at {revision} and this program needs {HEAD}: run "
            "`orderflow-server migrate`"
        )


def behind(revision: str | None) -> bool:
    """Says whether steps are missing from a database at `revision`; None: it has none yet.

    Raises:
        StoreUnavailable: It is more than one step ahead: this server cannot know whether what it
            reads and writes still means the same. Or it is another program's.
    """
    ahead = 0 if revision is None else _number(revision) - int(HEAD)
    if ahead > 1:
        raise StoreUnavailable(
            f"the schema is at {revision}: this server knows {HEAD} and works with one more at most"
        )
    if ahead == 1:
        log.warning("the schema is of the next release", schema=revision, known=HEAD)
    return lacks_steps(revision)


def lacks_steps(revision: str | None) -> bool:
    """Returns the same, also for a database that is further ahead.

    Raises:
        StoreUnavailable: The database is another program's.
    """
    return revision is None or _number(revision) < int(HEAD)


def _number(revision: str) -> int:
    if not (revision.isdecimal() and len(revision) == len(HEAD)):  # others' are hashes
        raise StoreUnavailable(
            f"the database belongs to another program: its alembic_version is {revision!r}"
        )
    return int(revision)


def take_steps(connection: sqlalchemy.Connection) -> None:
    """Takes the steps that are missing, in the connection's transaction.

    Looks again which those are: another process may have been faster.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "orderflow_server.storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)
