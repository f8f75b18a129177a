"""Many rows in one statement.

sqlite3 gives up the interpreter lock at every step, and gets it back when the event loop's
thread lets go: under load that is up to 5 ms, the interpreter's switch interval. One step per
row would make a batch of a hundred orders take seconds; one step per table does not.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

_MAX_ROWS = 512
"""Times the widest row this stays well below SQLite's 32 766 parameters."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """A statement over any number of rows, written where the rows go.

    Attributes:
        before: The statement up to the rows.
        columns: How many values a row has.
        after: The rest of the statement.
    """

    before: str
    columns: int
    after: str = ""

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Runs the statement in chunks of powers of two, so that few texts need preparing."""
        start = 0
        while left := len(rows) - start:
            count = min(_MAX_ROWS, 1 << (left.bit_length() - 1))
            chunk = rows[start : start + count]
            connection.execute(_sql(self, count), tuple(chain.from_iterable(chunk)))
            start += count


@functools.cache
def _sql(bulk: Bulk, count: int) -> str:
    row = f"({', '.join('?' * bulk.columns)})"
    return f"{bulk.before} {', '.join([row] * count)} {bulk.after}"
