"""Why something failed, all of it, as a log line says it."""

from __future__ import annotations

import grpc

from orderflow_client.status import brief

_MOST = 16


def causes(error: BaseException | None) -> list[dict[str, str]]:
    """The type and the message of an error and of what led to it, outermost first.

    It follows what a traceback does: the cause that was given, or else the error that was being
    handled. Of a failed call it says the code and the reason, and not the text, which is the
    other side's own. At most 16.
    """
    found: list[dict[str, str]] = []
    while error is not None and len(found) < _MOST:
        found.append({"type": type(error).__name__, "message": _message(error)})
        if error.__cause__ is not None or error.__suppress_context__:
            error = error.__cause__
        else:
            error = error.__context__
    return found


def _message(error: BaseException) -> str:
    return brief(error) if isinstance(error, grpc.aio.AioRpcError) else str(error)
