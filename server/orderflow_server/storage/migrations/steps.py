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


def behind(revision: str | None) -> bool:
    """Says whether steps are missing from a database at `revision`; None: it has none yet.

    Raises:
        StoreUnavailable: It is more than one step ahead: this server cannot know whether what it
            reads and writes still means the same.
    """
    ahead = 0 if revision is None else int(revision) - int(HEAD)
    if ahead > 1:
        raise StoreUnavailable(
            f"the schema is at {revision}: this server knows {HEAD} and works with one more at most"
        )
    if ahead == 1:
        log.warning("the schema is of the next release", schema=revision, known=HEAD)
    return lacks_steps(revision)


def lacks_steps(revision: str | None) -> bool:
    """Says the same, and has nothing against a database that is ahead."""
    return revision is None or int(revision) < int(HEAD)


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
