"""The Kubernetes manifests are valid, and in step with the service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it carries no types
import pytest
import yaml
from deploy.manifests import FILES, KUBERNETES, Resource, rendered, resources, the
from deploy.queries import ROOT, RULES

from orderflow.v1 import order_service_pb2
from orderflow_server.configuration import SECRETS_VARIABLE, load
from orderflow_server.settings import ENV_PREFIX, Settings

VERSION = kubernetes_validate.latest_version()
OVERLAYS = ["base", "overlays/production"]
_OF_THE_OPERATOR = "monitoring.coreos.com/v1"


def problems(resource: Resource) -> str:
    """What the published schema of its kind says; empty when nothing."""
    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    return ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_are_valid(file: Path) -> None:
    for resource in resources(file.read_text()):
        if resource["apiVersion"] != _OF_THE_OPERATOR:
            assert problems(resource) == ""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_kustomize_makes_is_valid(overlay: str) -> None:
    made = rendered(KUBERNETES / overlay)
    for resource in made:
        if resource["apiVersion"] != _OF_THE_OPERATOR:
            assert problems(resource) == ""
    names = {each["metadata"]["name"] for each in made if each["kind"] == "ConfigMap"}
    [container] = _pod(the("Deployment", "orders", made))["containers"]
    assert container["envFrom"][0]["configMapRef"]["name"] in names


def test_the_validation_finds_mistakes() -> None:
    [service] = resources((KUBERNETES / "base" / "disruption.yaml").read_text())
    service["spec"]["maxUnavailible"] = 1
    assert "maxUnavailible" in problems(service)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_settings_of_the_server(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in _settings(rendered(KUBERNETES / overlay)).items():
        monkeypatch.setenv(name, value)
        if name.startswith(ENV_PREFIX) and name != SECRETS_VARIABLE:
            assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields
    # As the secret is mounted.
    (tmp_path / "database").write_text("postgresql://orders:secret@postgres/orders")
    monkeypatch.setenv(SECRETS_VARIABLE, str(tmp_path))
    settings = load({}).settings
    assert settings.database.url is not None
    assert settings.insecure == (overlay == "base")
    assert (settings.tls_certificate is None) == settings.insecure


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stopping_server_has_time_and_everybody_has_noticed_before(overlay: str) -> None:
    made = rendered(KUBERNETES / overlay)
    values = _settings(made)
    lame_duck_s = float(values["ORDERFLOW_LAME_DUCK_S"])
    grace_s = float(values["ORDERFLOW_GRACE_S"])
    pod = _pod(the("Deployment", "orders", made))
    # The calls' grace, as much again for what runs in the background, and the telemetry's last.
    assert pod["terminationGracePeriodSeconds"] >= lame_duck_s + 2 * grace_s + 10
    probe = pod["containers"][0]["readinessProbe"]
    noticed_s = probe["failureThreshold"] * probe["periodSeconds"] + probe["timeoutSeconds"]
    assert lame_duck_s >= noticed_s + 4  # kube-proxy and DNS


def test_the_probes_of_the_base_ask_the_health_service() -> None:
    [container] = _pod(_deployment())["containers"]
    service = order_service_pb2.DESCRIPTOR.services_by_name["OrderService"].full_name
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe"):
        assert container[probe]["grpc"] == {"port": ports["grpc"], "service": service}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "ops"}


def test_pods_may_do_nothing_that_they_need_not() -> None:
    [job] = resources((KUBERNETES / "base" / "migrate.yaml").read_text())
    for workload in (_deployment(), job):
        pod = _pod(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_no_secret_is_in_a_file() -> None:
    for file in FILES:
        assert all(each["kind"] != "Secret" for each in resources(file.read_text()))
    assert "postgresql://" not in (KUBERNETES / "base" / "settings.env").read_text()


def test_the_operators_rules_are_those_of_prometheus() -> None:
    [made] = resources((KUBERNETES / "components" / "monitoring" / "rules.yaml").read_text())
    groups = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
    assert made["spec"] == {"groups": groups}
    subprocess.run([sys.executable, ROOT / "tools" / "kubernetes_rules.py", "--check"], check=True)


def test_the_job_of_what_is_scraped_is_the_one_that_the_rules_know() -> None:
    [monitor] = resources((KUBERNETES / "components" / "monitoring" / "monitor.yaml").read_text())
    kustomization = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    [labels] = kustomization["labels"]
    assert labels["pairs"][monitor["spec"]["jobLabel"]] == "orderflow"
    services = resources((KUBERNETES / "base" / "services.yaml").read_text())
    [port] = [each["port"] for each in monitor["spec"]["endpoints"]]
    ports = [port["name"] for port in the("Service", "orders-headless", services)["spec"]["ports"]]
    assert port in ports


def _deployment() -> Resource:
    return the(
        "Deployment", "orders", resources((KUBERNETES / "base" / "deployment.yaml").read_text())
    )


def _pod(workload: Resource) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def _settings(made: list[Resource]) -> dict[str, str]:
    [settings] = [each["data"] for each in made if each["kind"] == "ConfigMap"]
    values: dict[str, str] = settings
    return values
