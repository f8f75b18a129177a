"""Which methods' calls wait in a queue of their own; all are answered, whichever it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orderflow_server.accept_queues import add_service

SERVICE = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING


class Recording:
    """Passes on what generated code adds, and remembers the methods that it registered."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self.registered: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._server.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.registered.extend(f"{service}/{method}" for method in handlers)
        self._server.add_registered_method_handlers(service, dict(handlers))


@asynccontextmanager
async def healthy(own_queue: Sequence[str]) -> AsyncIterator[tuple[Recording, grpc.aio.Channel]]:
    server = grpc.aio.server()
    recording: Any = Recording(server)
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # has no types
    await servicer.set("", SERVING)
    add_service(
        health_pb2_grpc.add_HealthServicer_to_server, servicer, recording, own_queue=own_queue
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield recording, channel
    await server.stop(None)


@pytest.mark.parametrize(
    ("own_queue", "registered"),
    [
        ([], []),
        (["Check"], [f"{SERVICE}/Check"]),
        (["Watch", "Check"], [f"{SERVICE}/Check", f"{SERVICE}/Watch"]),
    ],
)
async def test_the_methods_named_have_their_own_queue_and_all_are_answered(
    own_queue: list[str], registered: list[str]
) -> None:
    async with healthy(own_queue) as (recording, channel):
        stub: Any = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]  # has no types

        assert recording.registered == registered
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        assert (await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest())))).status == SERVING


async def test_a_method_that_there_is_not_is_said_to_be_none() -> None:
    async with healthy(["Check"]) as (_, channel):
        ask: Any = channel.unary_unary(f"/{SERVICE}/Ask")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask(b"")

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_queue_for_a_method_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="has no method check"):
        async with healthy(["check"]):
            pass
