"""One log line for each call, by `logging`: its handlers are the program's to choose."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import grpc

from orderflow_client.status import BREAKER_OPEN
from orderflow_client.telemetry.ending import Ending

log = logging.getLogger("orderflow_client.calls")

_UNUSUAL = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
)
_FAULTS = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS})
_SILENT = frozenset({grpc.StatusCode.OK, grpc.StatusCode.CANCELLED})


def level_of(ending: Ending, *, retried: bool, sent: bool) -> int:
    """How much a call's ending matters.

    Debug for what is as it should be, or was given up by the caller, or was kept back here by an
    open breaker, which says once that it is; info for what the caller is to blame for; warning
    for the unusual, a success after retries included; error for what somebody must look into.

    Args:
        ending: Of the call.
        retried: It took more than one attempt.
        sent: It took at least one.
    """
    code = ending.code
    if ending.reason == BREAKER_OPEN and not sent:
        return logging.DEBUG
    if code in _FAULTS:
        return logging.ERROR
    if code in _UNUSUAL or (retried and code is grpc.StatusCode.OK):
        return logging.WARNING
    return logging.DEBUG if code in _SILENT else logging.INFO


def log_call(level: int, method: str, ending: Ending, fields: Mapping[str, object]) -> None:
    """Writes the line.

    Args:
        level: From `level_of`.
        method: `package.Service/Method`.
        ending: Of the call.
        fields: What else there is to say; attributes of the log record.
    """
    log.log(level, "%s ended with %s", method, ending, extra=dict(fields))
