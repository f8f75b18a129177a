"""The collector takes the project's configuration."""

from __future__ import annotations

import subprocess

import pytest
from deploy.outside import program
from deploy.queries import DEPLOY

BUILD = "tools/collector.sh builds it where Go is present"


@pytest.mark.parametrize("names", [["config.yaml"], ["config.yaml", "metrics.yaml"]], ids="+".join)
def test_the_collector_accepts_its_configuration(names: list[str]) -> None:
    collector = program("otelcol", BUILD)
    files = [str(DEPLOY / "collector" / name) for name in names]
    result = subprocess.run(
        [collector, "validate", *(f"--config={file}" for file in files)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
