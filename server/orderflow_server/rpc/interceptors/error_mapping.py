"""Turns what a handler raises into the status that the caller gets, once, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from orderflow_client.resilience import deadline
from orderflow_server.rpc.call import REQUEST_ID_HEADER, ServerCall
from orderflow_server.rpc.status import error_status


@asynccontextmanager
async def error_mapping(call: ServerCall) -> AsyncIterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        # The deadline and the caller's cancellation both arrive as a cancellation.
        current = deadline.current()
        expired = current is not None and current.expired
        call.code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError as error:
        call.code = call.context.code()
        call.error = error
        raise
    except Exception as error:  # noqa: BLE001  whatever it is, the caller gets a status
        mapped = error_status(error, request_id=call.request_id)
        call.code, call.reason, call.error = mapped.code, mapped.reason, error
        await call.context.abort(
            mapped.code,
            mapped.status.details,
            (*mapped.status.trailing_metadata, (REQUEST_ID_HEADER, call.request_id)),
        )
