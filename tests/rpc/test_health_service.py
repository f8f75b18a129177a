"""The health protocol, as load balancers and grpcurl ask it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from harness import Service, running_service
from orderflow_server.rpc.health import HealthService
from orderflow_server.rpc.server import ORDER_SERVICE

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def health(service: Service) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(service.channel)  # type: ignore[no-untyped-call]  # untyped


async def test_a_started_service_says_serving_for_itself_and_each_service(
    service: Service,
) -> None:
    for name in ("", ORDER_SERVICE):
        answer = await health(service).Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING
    listed = await health(service).List(health_pb2.HealthListRequest())
    assert {name: s.status for name, s in listed.statuses.items()} == {
        "": SERVING,
        ORDER_SERVICE: SERVING,
    }


async def test_an_unknown_service_is_not_found(service: Service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(service).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health(service).Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await watch.read()).status == UNKNOWN
    watch.cancel()


def test_it_starts_as_not_serving() -> None:
    assert not HealthService(["a"]).serving


def test_once_draining_it_never_serves_again() -> None:
    service = HealthService(["a"])
    service.serve()
    service.drain()
    service.serve()
    assert not service.serving


async def test_a_watch_tells_each_change_and_ends_behind_the_lame_duck(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        watch = health(service).Watch(health_pb2.HealthCheckRequest(service=ORDER_SERVICE))
        assert (await watch.read()).status == SERVING
        service.app.rpc.health.refuse()
        assert (await watch.read()).status == NOT_SERVING
        service.app.rpc.health.serve()
        assert (await watch.read()).status == SERVING
        service.app.rpc.health.drain()
        assert (await watch.read()).status == NOT_SERVING
        # Not sooner: a client whose watch has ended begins another at once, and would go on so.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(
                asyncio.shield(ended := asyncio.ensure_future(watch.read())), 0.1
            )
        service.app.rpc.health.end_watches()
        assert await ended is grpc.aio.EOF


async def test_an_open_watch_does_not_hold_up_the_shutdown(tmp_path: Path) -> None:
    async with running_service(tmp_path, grace_s=30.0) as service:
        watch = health(service).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        stopping = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopping < 10


async def test_health_answers_about_a_request_that_the_service_would_refuse(
    service: Service,
) -> None:
    """Health and reflection are outside the chain: no interceptor can refuse them."""
    await health(service).Check(health_pb2.HealthCheckRequest(), timeout=5)
    around = {path.split("/")[1] for path in service.app.rpc.chain._wrapped}
    assert around == {ORDER_SERVICE}


async def test_reflection_lists_the_services(service: Service) -> None:
    # The stub's types know of blocking channels only.
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)  # type: ignore[arg-type]
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    names = {entry.name for entry in answer.list_services_response.service}
    assert {ORDER_SERVICE, "grpc.health.v1.Health"} <= names
    call.cancel()
