"""The schema, in steps, and how a database is brought up to the last of them.

steps.py     which steps there are, and how they are taken
sqlite.py    a SQLite file
postgres.py  a PostgreSQL database, by whichever of the replicas that start is first
versions/    the steps

A release brings one step at most, and no step takes away or forbids what the release before it
reads or writes: while replicas are replaced one by one, those of before go on working. For the same
reason a server starts on a schema that is one step ahead of it, with a warning, so that a replica
of before may also be restarted meanwhile, or put back. It refuses one that is further ahead.

So a new column is nullable or has a default in the database, which means what the release before
means by not knowing of it; a new table is empty at first; a column or a value that is given up goes
a release after the last that uses it; and nothing that is there is renamed or becomes stricter.
`tests/e2e/test_rolling_upgrade.py` runs the release before, out of git's history, beside this one.
"""

from orderflow_server.storage.migrations.postgres import (
    postgres_lacks_steps,
    require_current_postgres,
    upgrade_postgres,
)
from orderflow_server.storage.migrations.sqlite import (
    require_current_sqlite,
    sqlite_lacks_steps,
    upgrade_sqlite,
)
from orderflow_server.storage.migrations.steps import HEAD

__all__ = [
    "HEAD",
    "postgres_lacks_steps",
    "require_current_postgres",
    "require_current_sqlite",
    "sqlite_lacks_steps",
    "upgrade_postgres",
    "upgrade_sqlite",
]
