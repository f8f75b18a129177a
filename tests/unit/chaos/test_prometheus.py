from __future__ import annotations

from pathlib import Path

import pytest

from orderflow_server.chaos import processes, prometheus


def test_without_a_prometheus_it_is_said_why_alerts_are_not_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert prometheus.why_not() == "no prometheus"
    binaries = tmp_path / ".cache" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "prometheus").touch(mode=0o755)
    assert prometheus.why_not() == ""
    monkeypatch.setattr(prometheus, "RULES", tmp_path / "deploy")
    assert prometheus.why_not() == "no deploy/prometheus here"
