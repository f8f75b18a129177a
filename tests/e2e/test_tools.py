"""The outside world's tools against the real thing; `make e2e` runs these."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import venv
from pathlib import Path
from uuid import uuid4

import pytest

from processes import ServerProcess, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parents[2]


async def run(*command: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


class TestGrpcurl:
    @pytest.fixture(autouse=True)
    def grpcurl(self) -> str:
        found = shutil.which("grpcurl")
        if found is None:
            pytest.skip("grpcurl is not installed: `make e2e` builds it where Go is present")
        return found

    async def grpcurl_json(self, grpcurl: str, server: ServerProcess, *arguments: str) -> object:
        *options, method = arguments
        code, output = await run(grpcurl, "-plaintext", *options, server.address, method)
        assert code == 0, output
        return json.loads(output)

    async def test_list_and_describe(self, grpcurl: str, tmp_path: Path) -> None:
        async with server_process(tmp_path) as server:
            code, output = await run(grpcurl, "-plaintext", server.address, "list")
            assert code == 0
            assert {"orderflow.v1.OrderService", "grpc.health.v1.Health"} <= set(output.split())
            code, output = await run(
                grpcurl, "-plaintext", server.address, "describe", "orderflow.v1.OrderService"
            )
            assert code == 0
            for method in ("CreateOrder", "GetOrder", "ListOrders", "CancelOrder", "WatchOrder"):
                assert f"rpc {method} (" in output

    async def test_an_order_as_json_and_the_health_check(
        self, grpcurl: str, tmp_path: Path
    ) -> None:
        request = {
            "request_id": str(uuid4()),
            "customer_id": "alice",
            "payment_token": "tok_visa",
            "items": [
                {
                    "sku": "BOOK-1",
                    "quantity": 2,
                    "unit_price": {"currency_code": "EUR", "units": 12, "nanos": 500000000},
                }
            ],
        }
        async with server_process(tmp_path) as server:
            created = await self.grpcurl_json(
                grpcurl,
                server,
                "-d",
                json.dumps(request),
                "orderflow.v1.OrderService/CreateOrder",
            )
            assert isinstance(created, dict)
            assert created["order"]["state"] == "ORDER_STATE_PAID"
            assert created["order"]["total"] == {"currency_code": "EUR", "units": "25"}
            health = await self.grpcurl_json(grpcurl, server, "grpc.health.v1.Health/Check")
            assert health == {"status": "SERVING"}

    async def test_an_error_shows_its_details(self, grpcurl: str, tmp_path: Path) -> None:
        async with server_process(tmp_path) as server:
            code, output = await run(
                grpcurl, "-plaintext", "-d", "{}", server.address,
                "orderflow.v1.OrderService/CreateOrder",
            )  # fmt: skip
        assert code != 0
        assert "InvalidArgument" in output
        assert "INVALID_REQUEST" in output
        assert "request_id" in output


async def test_the_demo_ends_well() -> None:
    code, output = await run(sys.executable, "-m", "orderflow_server", "demo", "--seed", "7")
    assert code == 0, output
    assert "SIGKILL" in output
    assert "Audit" in output


async def test_the_client_installs_alone_and_imports_fast(tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    source = tmp_path / "client"
    shutil.copytree(ROOT / "client", source)
    code, output = await run(
        python, "-m", "pip", "install", "--quiet", str(source), environment=environment
    )
    assert code == 0, output
    code, output = await run(python, "-m", "pip", "list", "--format=json", environment=environment)
    installed = {package["name"].lower() for package in json.loads(output.splitlines()[0])}
    assert "orderflow-client" in installed
    server_only = {"orderflow-server", "protovalidate", "alembic", "sqlalchemy", "pydantic"}
    assert not installed & (server_only | {"structlog", "typer", "rich"})

    timing = (
        "import time; began = time.perf_counter(); import orderflow_client; "
        "print(time.perf_counter() - began)"
    )
    seconds = [
        float((await run(python, "-c", timing, environment=environment))[1]) for _ in range(5)
    ]
    assert min(seconds) < 0.5
