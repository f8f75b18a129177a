"""What the Prometheus operator reads is valid by its own definitions."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it carries no types
import pytest
import yaml
from deploy.manifests import KUBERNETES, resources

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MODULE = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


@pytest.fixture(scope="module")
def definitions() -> Path:
    """The directory of the operator's CustomResourceDefinitions, from its Go module."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("the operator's definitions come as a Go module, and there is no Go here")
    result = subprocess.run(
        [go, "mod", "download", "-json", MODULE], check=False, capture_output=True, text=True
    )
    if result.returncode != 0:
        pytest.skip(f"{MODULE} cannot be had: {result.stdout}")
    return Path(json.loads(result.stdout)["Dir"], "example", "prometheus-operator-crd")


@pytest.mark.parametrize(
    ("file", "definition"), [("monitor", "servicemonitors"), ("rules", "prometheusrules")]
)
def test_it_is_as_the_operator_defines_it(definitions: Path, file: str, definition: str) -> None:
    path = definitions / f"monitoring.coreos.com_{definition}.yaml"
    [version] = yaml.safe_load(path.read_text())["spec"]["versions"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    [resource] = resources((KUBERNETES / "components" / "monitoring" / f"{file}.yaml").read_text())
    jsonschema.validate({"spec": resource["spec"]}, schema)
    resource["spec"]["colour"] = "red"
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate({"spec": resource["spec"]}, schema)


def _strict(schema: Any) -> Any:
    """The same, with no fields but those it names, and without Go's regular expressions."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        name: _strict(value)
        for name, value in schema.items()
        if not (name == "pattern" and isinstance(value, str))
    }
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", False)
    return made
