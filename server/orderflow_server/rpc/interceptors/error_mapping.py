"""Turns what a handler raises into the status that the caller gets, once, in one place."""

from __future__ import annotations

from typing import Any

import grpc

from orderflow_server.rpc.call import REQUEST_ID_HEADER, TRACE_ID_HEADER, ServerCall
from orderflow_server.rpc.chain import Operation
from orderflow_server.rpc.status import error_status


async def error_mapping(call: ServerCall, proceed: Operation) -> Any:
    try:
        return await proceed(call)
    except grpc.aio.AbortError as error:
        call.error = error
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a status
        mapped = error_status(error, request_id=call.request_id, trace_id=call.trace_id)
        call.reason, call.error = mapped.reason, error
        await call.context.abort(
            mapped.code,
            mapped.message,
            (
                *mapped.trailing_metadata,
                (REQUEST_ID_HEADER, call.request_id),
                (TRACE_ID_HEADER, call.trace_id),
            ),
        )
