"""Where the orders are kept: a SQLite file, or a PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseAddress:
    """A file or a URL. The secrets in a URL are in no text that it is turned into.

    Attributes:
        path: The file; None when it is a URL.
        url: The URL with all that is in it, for who connects; None when it is a file.
    """

    path: Path | None = None
    url: str | None = None

    @classmethod
    def parse(cls, value: str | Path | DatabaseAddress) -> DatabaseAddress:
        """A text with :// in it is a URL, whether or not it can be understood."""
        if isinstance(value, DatabaseAddress):
            return value
        if isinstance(value, str) and "://" in value:
            return cls(url=value)
        return cls(path=Path(value))

    def __repr__(self) -> str:
        return f"DatabaseAddress({str(self)!r})"

    def __str__(self) -> str:
        if self.url is None:
            return str(self.path)
        scheme, _, rest = self.url.partition("://")
        user_info, _, hosts_and_name = rest.rpartition("@")
        if any(mark in user_info for mark in "/?#"):
            # A password with such a mark should have it quoted; who knows where it ends.
            return f"{scheme}://***"
        try:
            parts = urlsplit(f"{scheme}://{hosts_and_name}")
        except ValueError:
            return f"{scheme}://***"
        return f"{scheme}://{parts.netloc}{parts.path}"
