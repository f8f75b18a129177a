"""The dashboards are what their source makes, and each panel explains itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from deploy.queries import DASHBOARDS, DEPLOY, ROOT, Query, panels

PANELS = dict(panels())


def test_they_are_what_their_source_makes() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "dashboards.py", "--check"], check=True)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_have_ids_of_their_own_and_do_not_overlap(path: Path) -> None:
    all_panels = json.loads(path.read_text())["panels"]
    ids = [panel["id"] for panel in all_panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in all_panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("where", PANELS)
def test_each_panel_says_what_it_means(where: str) -> None:
    panel = PANELS[where]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["legendFormat"]


def test_the_data_sources_lead_to_each_other() -> None:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "orderflow.yaml"
    sources = {
        source["uid"]: source["jsonData"]
        for source in yaml.safe_load(path.read_text())["datasources"]
    }
    assert sources["prometheus"]["exemplarTraceIdDestinations"][0]["datasourceUid"] == "jaeger"
    assert sources["loki"]["derivedFields"][0]["datasourceUid"] == "jaeger"
    assert sources["jaeger"]["tracesToLogsV2"]["datasourceUid"] == "loki"
    assert sources["jaeger"]["tracesToMetrics"]["datasourceUid"] == "prometheus"


def test_the_metrics_of_a_query_are_found() -> None:
    query = Query(
        "here",
        'sum by (job, le) (rate(a_total{x="b_total{}", y=~"$c"}[$__rate_interval]))'
        " / on (slo) group_left () d:e:rate5m or absent(f == 1) and up > 0.5",
    )
    assert query.metrics == {"a_total", "d:e:rate5m", "f"}
