"""The standard health protocol, with what grpcio-health-checking leaves out.

Starts as NOT_SERVING (the library starts as SERVING), answers List, and ends the watches when the
server drains, so that a watcher does not hold up the shutdown. A watcher that does not read
delays nobody else: the library's would hold a lock while it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(
    health.aio.HealthServicer  # type: ignore[misc, name-defined]  # the library carries no types
):
    """Answers for the server as a whole ("") and for each service, which here always agree."""

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._services = ("", *services)
        self._changed = asyncio.Event()
        self._draining = False
        self._over = False
        self._answer(_NOT_SERVING)

    @property
    def serving(self) -> bool:
        return bool(self._server_status[""] == _SERVING)

    def serve(self) -> None:
        """From now on SERVING, unless the server drains."""
        if not self._draining:
            self._answer(_SERVING)

    def refuse(self) -> None:
        """From now on NOT_SERVING."""
        self._answer(_NOT_SERVING)

    def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining = True
        self._answer(_NOT_SERVING)

    def end_watches(self) -> None:
        """NOT_SERVING for good; watches end when they have said so, those to come as well."""
        self._over = True
        self.drain()

    def _answer(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        self._server_status: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = (
            dict.fromkeys(self._services, status)
        )
        self._changed.set()
        self._changed = asyncio.Event()

    # Check is the library's.

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        told = None
        while True:
            changed = self._changed
            status = self._server_status.get(request.service, _UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            elif self._over:
                return
            else:
                await changed.wait()

    async def List(
        self,
        request: health_pb2.HealthListRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthListResponse:
        del request, context
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )
