"""The Kubernetes manifests, as files and as kustomize makes them."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.outside import program
from deploy.queries import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
FILES = sorted(
    file
    for file in KUBERNETES.rglob("*.yaml")
    # Of the rest, some are pieces that kustomize puts in.
    if file.parent.name in {"base", "monitoring"} and file.name != "kustomization.yaml"
)

Resource = dict[str, Any]


def resources(text: str) -> list[Resource]:
    return [resource for resource in yaml.safe_load_all(text) if resource is not None]


@cache
def rendered(directory: Path) -> list[Resource]:
    """What kustomize makes of it; skips where there is no kustomize."""
    kubectl = shutil.which("kubectl")
    build = "tools/kustomize.sh builds it where Go is present"
    command = [kubectl, "kustomize"] if kubectl else [program("kustomize", build), "build"]
    result = subprocess.run([*command, directory], check=False, capture_output=True, text=True)
    if result.returncode != 0:
        pytest.fail(result.stderr)
    return resources(result.stdout)


def the(kind: str, name: str, of: list[Resource]) -> Resource:
    [found] = [each for each in of if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found
