"""The suite can be pointed at interceptors that it knows nothing of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e  # pytest in pytest takes long

INTERCEPTORS = """
import grpc

from orderflow_server.rpc.chain import ServerChain


def good():
    return [ServerChain([], services=["conformance.Conformance"])]


class Deaf(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation, handler_call_details):
        async def handle(request, context):
            return b"what?"

        return grpc.unary_unary_rpc_method_handler(handle)


def bad():
    return [Deaf()]
"""


@pytest.mark.parametrize(("factory", "verdict"), [("good", "7 passed"), ("bad", "7 failed")])
def test_the_command_line_names_the_interceptors(
    factory: str, verdict: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    (tmp_path / "interceptors_of_a_user.py").write_text(INTERCEPTORS)
    command = [sys.executable, "-m", "pytest", "tests/rpc/conformance", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [
            *command,
            f"--interceptors=interceptors_of_a_user:{factory}",
            "-k=unary_unary-coroutine or stream_unary-plain-return",
            f"--override-ini=pythonpath=tests {tmp_path}",
        ],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict in run.stdout
    assert (run.returncode == 0) == (factory == "good")
