"""What deploy/ asks Prometheus: rules, alerts, dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
RULES = sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))
RULE_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

# Not the service's: Prometheus makes it.
_OF_PROMETHEUS = {"up"}
_OPERATORS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True)
class Query:
    """A PromQL expression and where it stands."""

    where: str
    expression: str

    @property
    def metrics(self) -> set[str]:
        """The names of the metrics it reads."""
        text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', self.expression)
        text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
        text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
        names = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?![a-zA-Z0-9_:]*\s*\()", text)
        return {name for name in names if name not in _OPERATORS} - _OF_PROMETHEUS


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in yaml.safe_load(path.read_text())["groups"]:
            yield from group["rules"]


def rule_queries() -> list[Query]:
    return [Query(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]


def recorded() -> set[str]:
    """The names that recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel, rows aside, and where it stands."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield f"{path.stem}: {panel['title']}", panel


def panel_queries() -> list[Query]:
    return [
        Query(where, target["expr"]) for where, panel in panels() for target in panel["targets"]
    ]
