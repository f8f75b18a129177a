from __future__ import annotations

import subprocess
import sys

import orderflow_client

WITHOUT_CLI = """
import sys
sys.modules["typer"] = sys.modules["rich"] = None  # as if they were not installed
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return python_with_cli(WITHOUT_CLI + code)


def python_with_cli(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_every_public_name_is_there() -> None:
    assert all(hasattr(orderflow_client, name) for name in orderflow_client.__all__)


def test_the_library_needs_nothing_that_only_the_command_needs() -> None:
    assert python("import orderflow_client").returncode == 0


def test_the_command_says_what_to_install_when_it_lacks_something() -> None:
    ended = python("from orderflow_client.__main__ import main; main()")
    assert ended.returncode == 1
    assert "orderflow-client[cli]" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_only_the_events_need_what_they_are_read_with() -> None:
    main = "from orderflow_client.__main__ import main; main()"
    without = "import sys; sys.modules['nats'] = None; sys.argv[1:] = "
    helped = python_with_cli(without + "['order', '--help'];" + main)
    assert helped.returncode == 0
    ended = python_with_cli(without + "['events', 'tail'];" + main)
    assert ended.returncode == 1
    assert "orderflow-client[events]" in ended.stderr
    assert "Traceback" not in ended.stderr
