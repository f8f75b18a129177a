"""The subject of the calls in progress: the one order, account or job that they are about.

A breaker guards a target that serves many subjects. One subject may fail again and again for a
reason of its own; knowing it lets the breaker tell that from a target that is down.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType

_current: ContextVar[str | None] = ContextVar("orderflow_subject", default=None)


def current_subject() -> str | None:
    """Return the subject of the work in progress; None when it has none."""
    return _current.get()


def about(subject: str) -> AbstractContextManager[None]:
    """Name the subject of all calls made in the block."""
    return _About(subject)


class _About(AbstractContextManager[None]):
    # A generator would cost more, and every payment passes here.
    __slots__ = ("_subject", "_token")

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._token: Token[str | None] | None = None

    def __enter__(self) -> None:
        self._token = _current.set(self._subject)

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
