"""Say in a few words why a connection failed: the name, the port, TLS or the credentials."""

from __future__ import annotations

import re
import socket
import ssl

_NAME = "host name not found"
_REFUSED = "connection refused"
_UNTRUSTED = "the server's TLS certificate is not trusted"
_OTHER_NAME = "the server's TLS certificate is for another host name"
_EXPIRED = "the server's TLS certificate has expired"
_SILENT = "no answer in time"
_NO_TLS = "the server does not speak TLS"
_CREDENTIALS = "credentials missing or wrong"

_CAUSES = [
    (re.compile(pattern, re.IGNORECASE), cause)
    for pattern, cause in (
        (r"name not found|name or service not known|no address associated", _NAME),
        (r"connection refused|connect call failed", _REFUSED),
        (r"certificate has expired", _EXPIRED),
        (r"hostname verification check failed|hostname mismatch|ip address mismatch", _OTHER_NAME),
        (r"CERTIFICATE_VERIFY_FAILED", _UNTRUSTED),
        (r"WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE", _NO_TLS),
        (r"expected SETTINGS frame", "the server does not speak HTTP/2"),
        (r"network is unreachable", "network unreachable"),
        (r"no route to host", "no route to host"),
        (r"no such file or directory", "no such socket"),
        (r"permission denied", "permission denied"),
        (r"authorization violation|user authentication", _CREDENTIALS),
        (r"expecting INFO message", "the server does not speak NATS"),
        (r"timed? ?out|deadline exceeded", _SILENT),
        (r"address lookup failed|temporary failure in name resolution", "host name lookup failed"),
        (
            r"socket closed|connection reset|broken pipe|EOF",
            "the server closed the connection; it may want TLS or another client certificate",
        ),
    )
]

# What the C core of gRPC says when no call was sent, and where it tried to connect.
_NOT_CONNECTED = re.compile(
    r"(?:connections to all backends failing|failed to connect to all addresses); last error: "
    r"\w+: (?P<address>(?:ipv4|ipv6|unix):\S+?): |errors resolving (?P<target>\S+): \["
)


def cause_of_status(details: str | None) -> str | None:
    """Return why a gRPC channel could not connect, in words that are all our own.

    Args:
        details: The text of the failed call's status.

    Returns:
        None when the text is not about a connection, or the cause is not known.
    """
    if details is None or _NOT_CONNECTED.match(details) is None:
        return None
    return _known(details)


def status_sentence(details: str) -> str:
    """Return `cannot connect to ADDRESS: cause` for such a text, and any other as it is."""
    found = _NOT_CONNECTED.match(details)
    cause = None if found is None else _known(details)
    if found is None or cause is None:
        return details
    address = found["target"] or found["address"].replace("%5B", "[").replace("%5D", "]")
    return f"cannot connect to {re.sub('^ipv[46]:', '', address)}: {cause}"


def cause_of(error: BaseException) -> str:
    """Return why an error of a socket, of TLS or of NATS happened; its own text if not known.

    Args:
        error: The error. Its text must hold no secret.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _known(error.verify_message) or _known(str(error)) or _UNTRUSTED
    if isinstance(error, ConnectionRefusedError):
        return _REFUSED
    if isinstance(error, TimeoutError):
        return _SILENT
    if isinstance(error, socket.gaierror):
        return _known(str(error)) or "host name lookup failed"
    return _known(str(error)) or str(error) or type(error).__name__


def _known(text: str) -> str | None:
    return next((cause for pattern, cause in _CAUSES if pattern.search(text)), None)
