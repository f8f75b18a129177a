"""docker-compose.yml fits what it mounts, and itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.outside import program
from deploy.queries import DEPLOY, ROOT

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PORT = re.compile(r"(?<![\w.-])([a-z][a-z0-9-]*):(\d{4,5})\b")


def mounts() -> list[tuple[str, str]]:
    """What is mounted from here into whom; not the volumes that docker keeps."""
    return [
        (name, volume.split(":")[0])
        for name, service in SERVICES.items()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]


def image(name: str) -> str:
    version: str = SERVICES[name]["image"].rpartition(":")[2]
    return version


def text(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text()


def test_docker_compose_accepts_it() -> None:
    compose = program("docker-compose", "tools/compose.sh builds it where Go is present")
    result = subprocess.run(
        [compose, "--file", str(FILE), "--profile", "load", "config", "--quiet"],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_built_here_or_pinned_to_one_version(name: str) -> None:
    service = SERVICES[name]
    if "build" in service:
        assert service["image"] == "orderflow-server"
    else:
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-alpine)?", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_else_on_the_network_reaches_a_port(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize(("name", "path"), mounts())
def test_what_is_mounted_is_there_and_cannot_be_changed_from_inside(name: str, path: str) -> None:
    assert (ROOT / path).exists()
    assert f"{path}:" in str(SERVICES[name]["volumes"])
    [volume] = [each for each in SERVICES[name]["volumes"] if each.startswith(f"{path}:")]
    assert volume.endswith(":ro")


def test_named_volumes_and_secrets_are_declared_and_used() -> None:
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if not volume.startswith(".")
    }
    assert used == set(COMPOSE["volumes"])
    wanted = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert wanted == set(COMPOSE["secrets"])
    assert all((ROOT / secret["file"]).is_file() for secret in COMPOSE["secrets"].values())


@pytest.mark.parametrize("name", SERVICES)
def test_who_waits_for_health_waits_for_somebody_who_has_one(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        healthy = bool(SERVICES[needed].get("healthcheck", {}).get("test"))
        assert (how["condition"] == "service_healthy") == healthy


@pytest.mark.parametrize("name", [name for name in SERVICES if "build" in SERVICES[name]])
def test_our_own_containers_may_do_nothing_that_they_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "user" not in service  # the image's


@pytest.mark.parametrize(
    "path",
    [
        DEPLOY / "collector" / "config.yaml",
        DEPLOY / "collector" / "metrics.yaml",
        DEPLOY / "prometheus" / "prometheus.yml",
        DEPLOY / "grafana" / "provisioning" / "datasources" / "orderflow.yaml",
        DEPLOY / "compose" / "secrets" / "database",
        FILE,
    ],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_host_that_a_file_names_is_a_service(path: Path) -> None:
    code = re.sub(r"#.*", "", path.read_text())
    hosts = {host for host, _ in PORT.findall(code)}
    assert hosts
    assert hosts <= set(SERVICES)


def test_the_servers_have_the_time_to_stop_in_order() -> None:
    for name in ("orders-1", "orders-2"):
        service = SERVICES[name]
        lame_duck_s = float(service["environment"]["ORDERFLOW_LAME_DUCK_S"])
        grace_s, flush_s = 10, 2 * 2  # of settings.py and of telemetry/export.py
        limit = service["stop_grace_period"]
        assert limit.endswith("s")
        assert float(limit[:-1]) > lame_duck_s + 2 * grace_s + flush_s


def test_the_replicas_differ_in_their_names_only() -> None:
    first, second = (
        {**SERVICES[name], "environment": dict(SERVICES[name]["environment"])}
        for name in ("orders-1", "orders-2")
    )
    for name, each in (("orders-1", first), ("orders-2", second)):
        assert each["environment"].pop("OTEL_RESOURCE_ATTRIBUTES") == f"service.instance.id={name}"
    assert first == second


def test_the_password_is_the_one_that_the_database_is_set_up_with() -> None:
    secrets = DEPLOY / "compose" / "secrets"
    environment = SERVICES["postgres"]["environment"]
    user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
    password = (secrets / "postgres_password").read_text()
    url = (secrets / "database").read_text()
    assert url == f"postgresql://{user}:{password}@postgres:5432/{name}"


def test_what_is_tested_here_is_what_the_images_are() -> None:
    assert f"otlpreceiver v{image('collector')}" in text("deploy", "collector", "builder.yaml")
    assert f"is {image('jaeger')}," in text("tools", "jaeger.sh")


def test_grafana_finds_what_it_is_told_of() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "orderflow.yaml").read_text())[
        "providers"
    ]
    targets = {volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]}
    assert provider["options"]["path"] in targets
    sources = yaml.safe_load((provisioning / "datasources" / "orderflow.yaml").read_text())
    known = {source["uid"] for source in sources["datasources"]}
    named = set(
        re.findall(
            r"datasourceUid: (\w+)", (provisioning / "datasources" / "orderflow.yaml").read_text()
        )
    )
    assert named <= known
