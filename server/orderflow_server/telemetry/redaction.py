"""Keeps secrets out of the log, whoever put them in.

Three kinds are known by their form: the password in a URL such as `scheme://user:password@host`,
a token (JWT), and the value that follows one of the names in `SECRET_NAMES`, as a key of its own or
within a text. A secret in free text, with no name to it, looks like any other word: not to write
it is up to whoever writes the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from structlog.typing import EventDict, WrappedLogger

SECRET_NAMES = frozenset({"payment_token", "password", "authorization", "token"})
REDACTED = "***"

# One slash is what is left of two in a path.
_URL_PASSWORD = re.compile(r"(:/{1,2}[^\s/?#:@]*:)[^\s/?#]+@")
_VALUE = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&"')}\]]+"""
_NAMED = re.compile(
    # page_token is no secret: the name must be a word of its own.
    rf"(?<![\w-])({'|'.join(sorted(SECRET_NAMES))})"
    # name=..., name: ..., "name": ..., ("name", ...), name "..."
    r"""(\\?["']?\s*[:=]\s*|["']\s*,\s*|\s+(?=["']))"""
    rf"""(?:["']?(?:bearer|basic)\s+[^\s,;&"')}}\]]+["']?|{_VALUE})""",
    re.IGNORECASE,
)


# Three parts in base64url, the first of which is a JSON object.
_TOKEN_BEGINS = "eyJ"  # noqa: S105  of every token, and no more
_TOKEN = re.compile(rf"{_TOKEN_BEGINS}[\w-]+\.[\w-]+\.[\w-]*")

# Another secret has one of these before it. Most texts are names and ids and have none.
_MARK = re.compile(r"""[:="']""")
_SHORTEST_NAMES = tuple(
    name for name in SECRET_NAMES if not any(other in name for other in SECRET_NAMES - {name})
)
_PLAIN = frozenset({type(None), bool, int, float})


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The processor. It comes after whatever makes text of exceptions."""
    for key, value in event.items():
        # A renderer that makes the traceback itself redacts it itself.
        if key != "exc_info":
            redacted = _redacted_field(key, value)
            if redacted is not value:
                event[key] = redacted
    return event


def redacted_text(text: str) -> str:
    """The text without its secrets; the same object when it has none."""
    # Plain searches rule most of them out in a fraction of the time.
    if _TOKEN_BEGINS in text:
        text = _TOKEN.sub(REDACTED, text)
    if _MARK.search(text) is None or not may_have_secrets(text):
        return text
    text = _URL_PASSWORD.sub(rf"\1{REDACTED}@", text)
    return _NAMED.sub(rf"\1\2{REDACTED}", text)


def may_have_secrets(text: str) -> bool:
    """False: there is none of the known kinds in it. Also for what was rendered as JSON."""
    if _TOKEN_BEGINS in text or (":/" in text and "@" in text):
        return True
    lowered = text.lower()
    return any(name in lowered for name in _SHORTEST_NAMES)


def _redacted_field(key: object, value: Any) -> Any:
    if isinstance(key, str) and key.lower() in SECRET_NAMES:
        return REDACTED
    return _redacted(value)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted_text(value)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {key: _redacted_field(key, inner) for key, inner in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        # It may be a pair of metadata.
        return (_redacted(value[0]), _redacted_field(value[0], value[1]))
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    # The renderers write the repr of whatever else it is.
    text = repr(value)
    redacted = redacted_text(text)
    return value if redacted == text else redacted
