"""Envoy takes its configuration as shipped, which is in step with the contract and the servers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from deploy.queries import DEPLOY
from google.protobuf import descriptor_pb2

from orderflow.v1 import order_service_pb2
from orderflow_client.contract import contracts
from orderflow_server.settings import Settings

SHIPPED = DEPLOY / "envoy"
ENVOY = Path(sys.executable).with_name("envoy")
SERVICE = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"]
CONTRACT = contracts(SERVICE)
NOTICED_S = 3.0
"""How long Envoy may take to see that a server is not healthy: what the documentation says."""


def test_envoy_accepts_it() -> None:
    _validate(SHIPPED)


def test_envoy_accepts_the_clusters(tmp_path: Path) -> None:
    # Validation does not look into files that are read while it runs, so here it is in the one.
    shutil.copy(SHIPPED / "orderflow.binpb", tmp_path)
    edge = _edge()
    del edge["dynamic_resources"]
    cluster = _cluster()
    del cluster["@type"]
    edge["static_resources"]["clusters"] = [cluster]
    (tmp_path / "envoy.yaml").write_text(yaml.safe_dump(edge))
    _validate(tmp_path)


def test_a_call_is_given_up_here_only_after_the_server_should_have() -> None:
    timeouts_s = {path: method.timeout_s or 0.0 for path, method in CONTRACT.items()}
    streams = [path for path, method in CONTRACT.items() if method.streaming]
    routes = _routes()
    for path, timeout_s in timeouts_s.items():
        if path in streams:
            watch = _route_of(routes, path)
            assert watch["timeout"] == "0s"
            assert _seconds(watch["max_stream_duration"]["max_stream_duration"]) > timeout_s
        else:
            assert _seconds(_route_of(routes, path)["timeout"]) > timeout_s
            assert _seconds(_route_of(routes, "/v1/orders")["timeout"]) > timeout_s


def test_what_is_repeated_here_may_be_repeated() -> None:
    levels = {method.GetOptions().idempotency_level for method in SERVICE.methods}
    assert descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN not in levels


def test_a_body_is_as_large_as_the_servers_take() -> None:
    filters = {each["name"]: each["typed_config"] for each in _manager()["http_filters"]}
    limit = Settings.model_fields["max_request_bytes"].default
    assert filters["envoy.filters.http.buffer"]["max_request_bytes"] == limit


def test_each_rest_binding_has_a_route() -> None:
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(
        (SHIPPED / "orderflow.binpb").read_bytes()
    )
    [described] = [
        service
        for file in descriptors.file
        for service in file.service
        if f"{file.package}.{service.name}" == SERVICE.full_name
    ]
    assert [method.name for method in described.method] == [each.name for each in SERVICE.methods]
    prefixes = [route["match"].get("prefix", "") for route in _routes()]
    assert "/v1/orders" in prefixes


def test_it_notices_that_a_server_stops_as_fast_as_documented() -> None:
    cluster = _cluster()
    [check] = cluster["health_checks"]
    assert check["grpc_health_check"]["service_name"] == SERVICE.full_name
    interval_s, timeout_s = _seconds(check["interval"]), _seconds(check["timeout"])
    assert interval_s * check["unhealthy_threshold"] + timeout_s == NOTICED_S


def _validate(directory: Path) -> None:
    result = subprocess.run(
        [ENVOY, "--mode", "validate", "-c", "envoy.yaml"],
        cwd=directory,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert "Deprecated" not in result.stdout


def _edge() -> dict[str, Any]:
    edge: dict[str, Any] = yaml.safe_load((SHIPPED / "envoy.yaml").read_text())
    return edge


def _cluster() -> dict[str, Any]:
    cluster: dict[str, Any]
    [cluster] = yaml.safe_load((SHIPPED / "clusters.yaml").read_text())["resources"]
    return cluster


def _manager() -> dict[str, Any]:
    [listener] = _edge()["static_resources"]["listeners"]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _routes() -> list[dict[str, Any]]:
    routes: list[dict[str, Any]] = _manager()["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def _route_of(routes: list[dict[str, Any]], path: str) -> dict[str, Any]:
    """Where Envoy sends it: the first that matches."""
    for route in routes:
        match = route["match"]
        if match.get("path") == path or ("prefix" in match and path.startswith(match["prefix"])):
            action: dict[str, Any] = route["route"]
            return action
    raise AssertionError(f"no route for {path}")


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
