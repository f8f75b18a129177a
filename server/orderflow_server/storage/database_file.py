"""Identify the SQLite file: whose it is, and whether it is still in its place.

SQLite does neither by itself: it adds tables to any program's file, and goes on writing to one that
was deleted. (https://www.sqlite.org/howtocorrupt.html, "Unlinking or renaming a database file while
in use")
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from orderflow_server.orders.errors import StoreUnavailable

APPLICATION_ID = 0x4F46_4C57
"""The file's application_id: "OFLW" in ASCII. (https://www.sqlite.org/fileformat2.html)"""

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_JOURNAL_VERSION = 18
_WAL = 2
_APPLICATION_ID = slice(68, 72)
_PRIVATE = 0o600
_TABLES = {"alembic_version", "orders", "order_items", "events"}
"""A file with all of these, and one of our revisions, is Orderflow's without the mark, too."""

_REVISION = re.compile("[0-9]{4}")
"""How the steps of the schema are numbered; other programs' have hashes or names."""

_ANOTHERS = "the file belongs to another program"

_Identity = tuple[int, int]


class FileLost(Exception):
    """The file is not in its place any more: nothing may be acknowledged, and nothing mends it."""


class DatabaseFile:
    """The file at a path, held open from before SQLite opens it until after SQLite closes it.

    Not shorter, and one at a time for each file of a process: to close any descriptor of a file
    releases all of the process's POSIX locks on it, SQLite's among them.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, which stays unchanged.

        Raises:
            StoreUnavailable: It is missing or another program's.
        """
        self.path = path
        with _failing():
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._log_path = Path(f"{os.path.realpath(path)}-wal")
        self._log: _Identity | None = None
        self._filled = False
        self._lost: str | None = None
        try:
            with _failing():
                status = os.fstat(self._descriptor)
                self._identity = (status.st_dev, status.st_ino)
                self._require_ours()
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> str | None:
        """Why the file is lost; None: it was in its place when it was last checked."""
        return self._lost

    def connect(self, *, timeout_s: float) -> sqlite3.Connection:
        """Opens a connection, and never makes a file.

        Raises:
            sqlite3.Error: It cannot be opened.
        """
        return sqlite3.connect(
            _uri(self.path, "mode=rw"),
            uri=True,
            timeout=timeout_s,
            isolation_level=None,  # transactions begin and end where the code says so
            check_same_thread=False,  # one thread at a time, but not always the same
        )

    def remember_log(self) -> None:
        """Identifies the write-ahead log, which the writer's connection has just opened.

        The file has its schema by then: from now on it is not empty.
        """
        self._log = _identity_of(self._log_path)
        self._filled = True

    def forget_log(self) -> None:
        """The writer's connection was closed: the log may end with the last of all connections."""
        self._log = None

    def check(self) -> None:
        """Returns when the file and its log are in their place; two calls of stat.

        Raises:
            FileLost: They are not, or were not once before.
            OSError: That cannot be found out.
        """
        if self._lost is None:
            self._lost = self._loss()
        if self._lost is not None:
            raise FileLost(self._lost)

    def check_header(self) -> None:
        """Also looks whether the file still begins like one of Orderflow's.

        Raises:
            FileLost, OSError: As `check`.
        """
        self.check()
        header = os.pread(self._descriptor, _HEADER_BYTES, 0)
        # 0: of an earlier release, and the mark is in the log as yet.
        if header[: len(_MAGIC)] != _MAGIC or _application_id(header) not in (0, APPLICATION_ID):
            self._lost = f"the database {self.path} was overwritten"
            raise FileLost(self._lost)

    def close(self) -> None:
        """Closes the file. SQLite must have done so before."""
        os.close(self._descriptor)

    def _loss(self) -> str | None:
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"the database {self.path} was deleted or moved"
        if (status.st_dev, status.st_ino) != self._identity:
            return f"the database {self.path} was replaced by another file"
        if self._filled and status.st_size == 0:
            return f"the database {self.path} was emptied"
        if self._log is not None and _identity_of(self._log_path) != self._log:
            return f"the write-ahead log {self._log_path} was deleted or replaced"
        return None

    def _require_ours(self) -> None:
        header = os.pread(self._descriptor, _HEADER_BYTES, 0)
        if not header:
            return
        if len(header) < _HEADER_BYTES or header[: len(_MAGIC)] != _MAGIC:
            raise StoreUnavailable("the file is no SQLite database")
        application_id = _application_id(header)
        if application_id == 0:
            self._require_adoptable(in_wal_mode=header[_JOURNAL_VERSION] == _WAL)
        elif application_id != APPLICATION_ID:
            raise StoreUnavailable(f"{_ANOTHERS}: its application_id is {application_id:#x}")

    def _require_adoptable(self, *, in_wal_mode: bool) -> None:
        # Without a log nobody uses it, and SQLite would make one to read it, and leave it behind.
        unused = in_wal_mode and not self._log_path.exists()
        uri = _uri(self.path, "immutable=1" if unused else "mode=ro")
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                tables = {name for (name,) in rows if not name.startswith("sqlite_")}
                if not tables:
                    return
                if not tables >= _TABLES:
                    raise StoreUnavailable(f"{_ANOTHERS}: its tables are not Orderflow's")
                revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the file cannot be read: {error}") from error
        if len(revisions) != 1 or not _REVISION.fullmatch(str(revisions[0][0])):
            raise StoreUnavailable(f"{_ANOTHERS}: its alembic_version is not one of Orderflow's")


def make_private(path: Path) -> None:
    """Makes an empty file that only its owner may read and write, unless there is a file.

    What SQLite puts beside it gets the same mode.

    Raises:
        StoreUnavailable: It cannot be made.
    """
    try:
        # Not O_EXCL: the path may be a link to a file that is missing.
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, _PRIVATE))
    except OSError as error:
        raise StoreUnavailable(f"the file cannot be created: {error.strerror}") from error


def mark(connection: sqlite3.Connection) -> None:
    """Writes the application_id into the file, unless it is there.

    Raises:
        sqlite3.Error: It cannot be written.
    """
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise StoreUnavailable("the file does not exist") from error
    except OSError as error:
        raise StoreUnavailable(f"the file cannot be opened: {error.strerror}") from error


def _application_id(header: bytes) -> int:
    return int.from_bytes(header[_APPLICATION_ID], "big")


def _identity_of(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def _uri(path: Path, options: str) -> str:
    return f"{path.absolute().as_uri()}?{options}"
