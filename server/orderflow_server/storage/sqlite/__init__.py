"""SQLite: the dialect for one machine.

dialect.py  the threads and connections, and what the database's errors mean
writes.py   a batch of commands as a few statements
reads.py    orders, pages, changes and the backlog
rows.py     how an order is kept in columns
bulk.py     many rows in one step of one statement
    giveway.py  the interpreter lock, shared fairly with a busy event loop
"""

from orderflow_server.storage.sqlite.dialect import SqliteDialect, SqliteOptions

__all__ = ["SqliteDialect", "SqliteOptions"]
