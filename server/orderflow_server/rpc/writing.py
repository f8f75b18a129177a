"""Sending a message of a stream to a caller that may not read it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message

log = structlog.get_logger("orderflow.security")


class CallerStalled(grpc.aio.BaseError):
    """The caller does not read what it asked for.

    Nothing can be said to it any more, no status either: gRPC would send that behind the message
    that is stuck.
    """


async def write(
    context: grpc.aio.ServicerContext[Any, Any], message: Message, *, timeout_s: float
) -> None:
    """Returns when gRPC has taken the message, which it does while the caller reads.

    Raises:
        CallerStalled: It has not within `timeout_s`. The chain takes it for a caller that has gone.
            What gRPC keeps of the call it keeps until the connection ends.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await context.write(message)
    except TimeoutError as error:
        log.warning("a caller does not read, its call ends", waited_s=timeout_s)
        raise CallerStalled from error
