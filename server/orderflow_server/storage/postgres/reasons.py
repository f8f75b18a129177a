"""Why a connection failed, in a few words for an operator."""

from __future__ import annotations

import os
import socket
import ssl

import asyncpg


def reason_of(error: BaseException) -> str:
    """Return why the database failed, without secrets: neither the URL nor a value is repeated."""
    if isinstance(error, asyncpg.PostgresError):
        return _reported_by_server(error)
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "the server is read-only or a standby"
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        # The text of a configuration error repeats parts of the URL.
        return f"the driver failed ({type(error).__name__})"
    if isinstance(error, OSError):
        return _reported_by_system(error)
    return type(error).__name__


def _reported_by_server(error: asyncpg.PostgresError) -> str:
    if isinstance(error, asyncpg.InvalidPasswordError):
        return "the user or password was rejected"
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return "the server has no free connection"
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):
        return "the connection was lost"
    # The primary message; the values of a row are in the detail.
    lines = str(error.args[0] if error.args else "").splitlines()
    return lines[0] if lines else type(error).__name__


def _reported_by_system(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or 'no handshake'}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        return "a file or socket that the URL names does not exist"
    # Where a host has several addresses, asyncio gives their errors as one text.
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "the connection was refused"
    if "rejected SSL upgrade" in str(error):
        return "TLS failed: the server does not offer it"
    if error.errno is not None:
        return os.strerror(error.errno)
    return "the connection was lost" if isinstance(error, ConnectionError) else "a system error"
