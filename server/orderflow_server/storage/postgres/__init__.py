"""PostgreSQL: the dialect for any number of processes.

dialect.py     the connections: who writes on which, who reads
connecting.py  how they are set up, and what the database's errors mean
writes.py      a batch of commands as a few statements
statements.py  those statements
reads.py       orders, pages, changes and the backlog
rows.py        how an order is kept in columns
notices.py     what replicas tell each other of changed orders
listening.py   hearing it
"""

from orderflow_server.storage.postgres.connecting import PostgresOptions
from orderflow_server.storage.postgres.dialect import PostgresDialect

__all__ = ["PostgresDialect", "PostgresOptions"]
