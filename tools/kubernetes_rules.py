"""Prometheus' rules as the resource that its operator reads: the groups of deploy/prometheus/rules.

Usage: python tools/kubernetes_rules.py [--check]
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules"
TARGET = ROOT / "deploy" / "kubernetes" / "components" / "monitoring" / "rules.yaml"
HEADER = "# Made by tools/kubernetes_rules.py from deploy/prometheus/rules. Never edited by hand.\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def rules() -> str:
    files = [yaml.safe_load(file.read_text()) for file in sorted(RULES.glob("*.yaml"))]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "orders"},
        "spec": {"groups": [group for file in files for group in file["groups"]]},
    }
    return HEADER + yaml.dump(resource, Dumper=_Dumper, sort_keys=False, width=120)


def main() -> None:
    if sys.argv[1:] == ["--check"]:
        if not TARGET.exists() or TARGET.read_text() != rules():
            raise SystemExit("rules.yaml is stale, run `python tools/kubernetes_rules.py`")
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        TARGET.write_text(rules())


if __name__ == "__main__":
    main()
