"""A real Envoy with the shipped configuration before two real servers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import grpc
import jwt
import pytest
from deploy.outside import program, started, until_answered
from deploy.queries import ROOT

from fakes.postgres import TestDatabases
from fakes.postgres import postgres as postgres
from orderflow.v1 import order_pb2, order_service_pb2_grpc
from orderflow.v1 import order_service_pb2 as pb
from orderflow_client import NotFound, OrderClient, item, money
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import ServerProcess, free_port, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ENVOY = str(Path(sys.executable).with_name("envoy"))
ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


@dataclass(frozen=True)
class Edge:
    """What runs.

    Attributes:
        address: Where callers go, host:port.
        admin: Envoy's own, host:port.
        servers: Those behind it.
    """

    address: str
    admin: str
    servers: list[ServerProcess]
    log: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"


@asynccontextmanager
async def edge(directory: Path, postgres: TestDatabases, **environment: str) -> AsyncIterator[Edge]:
    """Two servers over one database, and Envoy, which knows that both are healthy."""
    address, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(PaymentSimulator())
        database = await stack.enter_async_context(postgres.new())
        arguments = ["--database", database, "--gateway", gateway.target]

        async def server(name: str) -> ServerProcess:
            (directory / name).mkdir()
            return await stack.enter_async_context(
                server_process(directory / name, arguments=arguments, environment=environment)
            )

        servers = [await server("1"), await server("2")]
        writing = await asyncio.create_subprocess_exec(
            *(sys.executable, ROOT / "tools" / "edge.py", directory),
            *("--listen", address, "--admin", admin),
            *(part for each in servers for part in ("--server", each.address)),
        )
        assert await writing.wait() == 0
        log = directory / "envoy.log"
        envoy = await stack.enter_async_context(
            started(
                *("env", "-C", str(directory), ENVOY, "-c", "envoy.yaml"),
                *("--use-dynamic-base-id", "--log-level", "warning"),
                log=log,
            )
        )
        await until_answered(f"http://{address}/healthz", envoy)
        found = Edge(address, admin, servers, log)
        await until_healthy(found, 2)
        yield found


async def until_healthy(edge: Edge, count: int) -> None:
    """Returns when Envoy sends calls to so many servers."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(20):
        while True:
            async with http.get(f"http://{edge.admin}/clusters") as response:
                if (await response.text()).count("health_flags::healthy\n") == count:
                    return
            await asyncio.sleep(0.05)


async def _calls(edge: Edge) -> dict[str, int]:
    """How many calls each server got from Envoy, by its address."""
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://{edge.admin}/clusters") as response,
    ):
        lines = re.findall(r"^orders::(.*)::rq_total::(\d+)$", await response.text(), re.MULTILINE)
    return {address: int(count) for address, count in lines}


def order_json(request_id: str) -> dict[str, Any]:
    price = {"currencyCode": "EUR", "units": "12", "nanos": 500_000_000}
    return {
        "requestId": request_id,
        "customerId": "alice",
        "paymentToken": "tok_visa",
        "items": [{"sku": "BOOK-1", "quantity": 2, "unitPrice": price}],
    }


class TestTheDocumentation:
    EXAMPLE = re.compile(r"```sh\n(curl .*?)```\n\n(\d{3}):\n\n```json\n(.*?)```", re.DOTALL)

    async def test_every_example_gives_what_it_says(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        text = (ROOT / "docs" / "edge.md").read_text()
        examples = self.EXAMPLE.findall(text)
        assert len(examples) == text.count("```json")
        environment = dict(os.environ)
        async with edge(tmp_path, postgres) as running:
            for command, code, answer in examples:
                seen, seen_code = await self._run(command, running, environment)
                assert (seen_code, _without_chance(seen)) == (code, _without_chance(answer)), (
                    f"{command}\n{seen}"
                )
                if "ORDER" not in environment:
                    environment["ORDER"] = json.loads(seen)["order"]["id"]

    async def _run(self, command: str, edge: Edge, environment: dict[str, str]) -> tuple[str, str]:
        """What curl printed, and the HTTP code."""
        command = command.replace("http://127.0.0.1:8080", edge.url)
        command = command.replace("curl", r"curl -w '\n%{http_code}'", 1)
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", command, env=environment, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        answer, _, code = output.decode().rpartition("\n")
        return answer, code


def _without_chance(answers: str) -> list[Any]:
    """The JSON objects of a text, with what differs from run to run taken out."""
    text = re.sub(r'"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}"', '"<uuid>"', answers)
    text = re.sub(r'"\d{4}-\d\d-\d\dT[0-9:.]+Z"', '"<time>"', text)
    text = re.sub(r'("trace_id": ?)"[0-9a-f]{32}"', r'\1"<trace>"', text)
    text = re.sub(r'("nextPageToken": ?)"[^"]+"', r'\1"<token>"', text)
    return _objects(text)


def _objects(text: str) -> list[Any]:
    """JSON, one object after the other."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


class TestErrors:
    async def test_a_shed_call_is_429_and_says_when_to_come_back(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with (
            edge(tmp_path, postgres, ORDERFLOW_MAX_STREAMS="1") as running,
            aiohttp.ClientSession(running.url) as http,
            http.post("/v1/orders", json=order_json(str(uuid4()))) as placed,
        ):
            watch = f"/v1/orders/{(await placed.json())['order']['id']}:watch"
            async with (
                http.get(watch) as first,
                http.get(watch) as second,
                http.get(watch) as third,
            ):
                # Each server admits one; which of them is asked is up to Envoy's threads.
                answers = {each.status: each for each in (first, second, third)}
                assert answers.keys() == {200, 429}
                status = await answers[429].json()
        [info, retry] = status["details"]
        assert info["reason"] == "OVERLOADED"
        assert retry["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
        assert float(retry["retryDelay"].removesuffix("s")) > 0

    async def test_what_envoy_itself_answers_has_the_same_form(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with edge(tmp_path, postgres) as running, aiohttp.ClientSession(running.url) as http:
            large = json.dumps(order_json(str(uuid4())) | {"paymentToken": "x" * 2_000_000})
            answers = [
                await self._answer(http.post("/v1/orders", data='{"requestId"')),
                await self._answer(http.post("/v1/orders", data=BytesIO(large.encode()))),
                await self._answer(http.delete("/v1/orders")),
                await self._answer(http.get("/nothing")),
                # A name of gRPC's, but not gRPC.
                await self._answer(http.post("/orderflow.v1.OrderService/GetOrder")),
                await self._answer(http.get("/v1/orders", headers={"grpc-timeout": "1n"})),
            ]
            assert [code for code, _ in answers] == [400, 413, 404, 404, 404, 504]
            assert [status["code"] for _, status in answers] == [3, 8, 12, 12, 12, 4]
            for server in running.servers:
                server.process.kill()
            await until_healthy(running, 0)
            code, status = await self._answer(http.get("/v1/orders"))
            assert (code, status["code"]) == (503, 14)
            code, _ = await self._answer(http.get("/healthz"))
            assert code == 503

    async def _answer(self, request: Any) -> tuple[int, dict[str, Any]]:
        async with request as response:
            text = await response.text()
            return response.status, json.loads(text) if text else {}


class TestPassedOn:
    async def test_the_callers_token_trace_and_request_id(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("x" * 32)
        claims = {
            "sub": "alice",
            "aud": "orderflow",
            "roles": ["customer"],
            "exp": int(time.time()) + 600,
        }
        token = jwt.encode(claims, "x" * 32, algorithm="HS256")
        trace_id = uuid4().hex
        async with (
            edge(tmp_path, postgres, ORDERFLOW_TOKEN_SECRET=str(secret)) as running,
            aiohttp.ClientSession(running.url) as http,
        ):
            async with http.get(f"/v1/orders/{uuid4()}") as nobody:
                assert nobody.status == 401
            headers = {
                "authorization": f"Bearer {token}",
                "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
                "x-request-id": "the-callers-own",
            }
            async with http.get(f"/v1/orders/{uuid4()}", headers=headers) as alice:
                assert alice.status == 404
                assert alice.headers["x-request-id"] == "the-callers-own"
                [info, *_] = (await alice.json())["details"]
            assert info["metadata"] == {"trace_id": trace_id, "request_id": "the-callers-own"}
        log = running.log.read_text()  # It is written when Envoy ends, at the latest.
        assert trace_id in log
        assert token not in log

    async def test_an_edge_that_is_to_go_says_so_and_still_answers(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with (
            edge(tmp_path, postgres) as running,
            aiohttp.ClientSession() as http,
        ):
            async with http.post(f"http://{running.admin}/healthcheck/fail") as failing:
                assert failing.status == 200
            async with http.get(f"{running.url}/healthz") as health:
                assert health.status == 503
            async with http.get(f"{running.url}/v1/orders") as answer:
                assert answer.status == 200
                assert answer.headers["connection"] == "close"


class TestGrpc:
    async def test_a_client_uses_it_as_a_server(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with edge(tmp_path, postgres) as running, OrderClient(running.address) as client:
            assert await client.health() == "SERVING"
            order = await client.create_order(
                customer_id="alice", items=ITEMS, payment_token="tok_visa"
            )
            assert (await client.get_order(order.id)).state == order_pb2.ORDER_STATE_PAID
            with pytest.raises(NotFound) as error:
                await client.get_order(str(uuid4()))
            assert error.value.reason == "ORDER_NOT_FOUND"
            versions = []
            async for change in client.watch_order(order.id):
                versions.append(change.version)
                if len(versions) == 1:
                    await client.cancel_order(order.id)
            assert versions == list(range(2, 5))

    async def test_calls_of_one_connection_go_to_both_servers(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with edge(tmp_path, postgres) as running, OrderClient(running.address) as client:
            before = await _calls(running)
            for _ in range(40):
                await client.list_orders_page(page_size=1)
            after = await _calls(running)
            # Health checks count as well.
            assert all(after[each] - before[each] >= 20 for each in after)

    async def test_grpcurl_sees_the_services(self, tmp_path: Path, postgres: TestDatabases) -> None:
        grpcurl = program("grpcurl", "tools/grpcurl.sh builds it where Go is present")
        async with edge(tmp_path, postgres) as running:
            process = await asyncio.create_subprocess_exec(
                *(grpcurl, "-plaintext", running.address, "list"), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
        assert b"orderflow.v1.OrderService" in output


class TestAServerIsKilled:
    """By SIGKILL, under load. What it was working on is done by the other one."""

    CALLERS = 20

    async def test_callers_of_rest_notice_nothing(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with edge(tmp_path, postgres) as running, aiohttp.ClientSession(running.url) as http:

            async def call() -> str:
                async with http.post("/v1/orders", json=order_json(str(uuid4()))) as response:
                    if response.status != 200:
                        return f"{response.status} {await response.text()}"
                    order_id = (await response.json())["order"]["id"]
                async with http.get(f"/v1/orders/{order_id}") as response:
                    return "" if response.status == 200 else await response.text()

            calls, failures = await self._under_load(call, running)
        assert calls > 100
        assert failures == []

    async def test_callers_with_the_client_library_notice_nothing(
        self, tmp_path: Path, postgres: TestDatabases
    ) -> None:
        async with edge(tmp_path, postgres) as running, OrderClient(running.address) as client:

            async def call() -> str:
                order = await client.create_order(
                    customer_id="alice", items=ITEMS, payment_token="tok_visa"
                )
                await client.get_order(order.id)
                return ""

            calls, failures = await self._under_load(call, running)
        assert calls > 100
        assert failures == []

    async def test_bare_calls_notice_nothing(self, tmp_path: Path, postgres: TestDatabases) -> None:
        async with (
            edge(tmp_path, postgres) as running,
            grpc.aio.insecure_channel(
                running.address, options=[("grpc.enable_retries", 0)]
            ) as channel,
        ):
            stub = order_service_pb2_grpc.OrderServiceStub(channel)

            async def call() -> str:
                try:
                    await stub.ListOrders(pb.ListOrdersRequest(page_size=1), timeout=5)
                except grpc.aio.AioRpcError as error:
                    return f"{error.code()} {error.details()}"
                return ""

            calls, failures = await self._under_load(call, running)
        assert calls > 100
        assert failures == []

    async def _under_load(self, call: Any, edge: Edge) -> tuple[int, list[tuple[float, str]]]:
        """How many calls ended, and what failed how long after the kill, seconds."""
        clock = time.monotonic
        killed_at = clock() + 1.5
        end = killed_at + 4.0
        calls = 0
        failures: list[tuple[float, str]] = []

        async def caller() -> None:
            nonlocal calls
            while clock() < end:
                failure = await call()
                calls += 1
                if failure:
                    failures.append((clock() - killed_at, failure))
                await asyncio.sleep(0.05)

        async def kill() -> None:
            nonlocal killed_at
            await asyncio.sleep(killed_at - clock())
            killed_at = clock()
            edge.servers[0].process.kill()

        async with asyncio.TaskGroup() as group:
            group.create_task(kill())
            for _ in range(self.CALLERS):
                group.create_task(caller())
        await until_healthy(edge, 1)
        print(f"\none of two killed: {calls} calls, {len(failures)} failed")  # noqa: T201  with -s
        return calls, failures
