"""Many rows in one step of one statement.

sqlite3 gives up the interpreter lock at every step, and gets it back when the event loop's
thread lets go: while that is busy, milliseconds later (see `giveway`). One step per row would
make a batch of a hundred orders take seconds.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

_MAX_ROWS = 1536
"""Of the widest row, 16 columns, these are still fewer than SQLite's 32 766 parameters."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """A statement over any number of rows.

    Attributes:
        columns: The names of a row's values; the first is a text.
        statement: Reads the rows from `new`. Must ignore those whose first column is 0.
    """

    columns: tuple[str, ...]
    statement: str

    @classmethod
    def insert(cls, table: str, *columns: str) -> Bulk:
        return cls(
            columns,
            f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 - names, no values
            f"SELECT * FROM new WHERE {columns[0]} <> 0",
        )

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Runs the statement over the rows.

        They are filled up with zeros to a power of two, or one and a half: that way there are few
        statements, which stay prepared.
        """
        for start in range(0, len(rows), _MAX_ROWS):
            chunk = rows[start : start + _MAX_ROWS]
            count = _rounded_up(len(chunk))
            values = list(chain.from_iterable(chunk))
            values += [0] * ((count - len(chunk)) * len(self.columns))
            connection.execute(_sql(self, count), values)


def _rounded_up(count: int) -> int:
    power = 1 << (count - 1).bit_length()
    smaller = power - power // 4
    return smaller if count <= smaller else power


@functools.cache
def _sql(bulk: Bulk, count: int) -> str:
    row = f"({', '.join('?' * len(bulk.columns))})"
    rows = ", ".join([row] * count)
    return f"WITH new ({', '.join(bulk.columns)}) AS (VALUES {rows}) {bulk.statement}"
