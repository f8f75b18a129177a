from __future__ import annotations

import subprocess
import sys

ARE_LOADED = """
import sys
loaded = {name.partition(".")[0] for name in sys.modules}
print(sorted(loaded & {"opentelemetry", "prometheus_client"}))
"""


def loaded_by(imports: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", imports + ARE_LOADED], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_who_does_not_ask_for_telemetry_needs_none_of_its_libraries() -> None:
    assert loaded_by("import orderflow_client, orderflow_client.channel") == "[]"


def test_who_asks_for_it_gets_them() -> None:
    assert loaded_by("import orderflow_client.telemetry") == (
        "['opentelemetry', 'prometheus_client']"
    )
