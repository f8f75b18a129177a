"""The token that says who calls: where it comes from, and where it may go."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from orderflow_client.resilience.deadline import MonotonicClock

TokenSource = str | os.PathLike[str] | Callable[[], str]
"""A token, the path of a file that holds one, or what returns one. A str is the token itself.

What returns one is called for each attempt, in the event loop: it must not block."""

_LOOK_AFTER_S = 1.0
"""How old what was read of a file may be, before the file is looked at again."""

# RFC 6750, and JWTs are within it. gRPC would put the token into the message of its refusal.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")

log = logging.getLogger("orderflow_client")


def bearer(source: TokenSource, *, clock: MonotonicClock = time.monotonic) -> Callable[[], str]:
    """What returns the value of the `authorization` header for the next attempt.

    Args:
        source: Where the token comes from. A file is read now, and again when it has changed,
            at most a second later. When that fails, the token read before is used on, and the
            logger `orderflow_client` has a warning.
        clock: What that second is measured with.

    Raises:
        ValueError: What should be a token is none, or the file cannot be read. The function
            raises it as well, when what returns the token returns none.
    """
    if isinstance(source, str):
        value = _header(source)
        return lambda: value
    if isinstance(source, os.PathLike):
        return _FileBearer(Path(source), clock).header
    return lambda: _header(source())


def stays_here(target: str) -> bool:
    """Whether all that is sent to a gRPC target stays on this machine."""
    scheme, colon, rest = target.partition(":")
    if colon and scheme in {"unix", "unix-abstract"}:
        return True
    if not colon or scheme not in {"dns", "ipv4", "ipv6"}:
        rest = target
    if rest.startswith("//"):
        # dns://authority/name
        rest = rest[2:].partition("/")[2]
    return all(_is_loopback(address) for address in rest.split(","))


class _FileBearer:
    """The token of a file that is exchanged now and then."""

    def __init__(self, path: Path, clock: MonotonicClock) -> None:
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        try:
            self._seen = self._signature()
            self._header = self._read()
        except OSError as error:
            raise ValueError(f"the token file {path} cannot be read: {error.strerror}") from error

    def header(self) -> str:
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_AFTER_S:
            self._looked_s = now_s
            self._look()
        return self._header

    def _look(self) -> None:
        try:
            signature = self._signature()
            if signature == self._seen:
                return
            self._seen = signature
            self._header = self._read()
        except (OSError, ValueError) as error:
            # Half written, or gone for a moment: it is looked at again.
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("the token read before is used on: %s: %s", self._path, reason)

    def _signature(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> str:
        # What is no ASCII is no token either, and a decoding error would quote it.
        return _header(self._path.read_text("ascii", errors="replace").strip())


def _header(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise ValueError("what is given as a token is none: letters, digits and -._~+/= only")
    return f"Bearer {token}"


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(f"//{address}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        # A name, which leads anywhere.
        return False
