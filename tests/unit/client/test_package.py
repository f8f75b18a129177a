from __future__ import annotations

import subprocess
import sys

import orderflow_client

WITHOUT_CLI = """
import sys
sys.modules["typer"] = sys.modules["rich"] = None  # as if they were not installed
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_CLI + code], capture_output=True, text=True, check=False
    )


def test_every_public_name_is_there() -> None:
    assert all(hasattr(orderflow_client, name) for name in orderflow_client.__all__)


def test_the_library_needs_nothing_that_only_the_command_needs() -> None:
    assert python("import orderflow_client").returncode == 0


def test_the_command_says_what_to_install_when_it_lacks_something() -> None:
    ended = python("from orderflow_client.__main__ import main; main()")
    assert ended.returncode == 1
    assert "orderflow-client[cli]" in ended.stderr
    assert "Traceback" not in ended.stderr
