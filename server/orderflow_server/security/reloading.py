"""What files say, read again when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

log = structlog.get_logger("orderflow.security")

T = TypeVar("T")
_Stamp = Sequence[tuple[int, int, int]]


class UnusableFile(Exception):
    """A file that security depends on cannot be used; the text names it and says why."""


class Reloaded(Generic[T]):
    """A value made of files, and made anew when one of them changes.

    New content that cannot be used leaves the old value in force, and is told once. So files
    that belong together may be replaced one after the other.

    Args:
        paths: Where they are. Of a symbolic link it is the target that counts.
        load: Makes the value of their contents, in the order of the paths. Raises ValueError for
            contents that cannot be used.
        what: What the value is, for the log.

    Raises:
        UnusableFile: A file cannot be read or used, the first time.
    """

    def __init__(
        self, paths: Sequence[Path], load: Callable[[Sequence[bytes]], T], *, what: str
    ) -> None:
        self._paths = paths
        self._load = load
        self._what = what
        # gRPC asks for certificates on threads of its own.
        self._lock = threading.Lock()
        # Before they are read: what changes meanwhile is seen the next time.
        self._stamp = self._stamps()
        self._value = self._read()

    def current(self) -> T:
        """The value. Looks at the files, which takes some microseconds each; reads changed ones."""
        with self._lock:
            stamp = self._stamps()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._value = self._read()
                except UnusableFile as error:
                    log.error("changed file refused, the old is used", error=str(error))  # noqa: TRY400  the text says it all
                else:
                    log.info("changed file read", what=self._what)
            return self._value

    def _read(self) -> T:
        names = " and ".join(map(str, self._paths))
        try:
            return self._load([path.read_bytes() for path in self._paths])
        except (OSError, ValueError) as error:
            raise UnusableFile(f"{self._what} {names}: {error}") from error

    def _stamps(self) -> _Stamp:
        return [_stamp(path) for path in self._paths]


_MISSING = (0, 0, 0)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return _MISSING
    return status.st_mtime_ns, status.st_size, status.st_ino
