"""A crowd of hostile peers, and a server process that goes on answering the others."""

from __future__ import annotations

import asyncio
import resource
import statistics
import struct
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from fakes.authority import Files
from fakes.raw_http2 import PREFACE
from fakes.tokens import Issuer, bearer, write_set
from harness import create_request
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from processes import ServerProcess, run_server_command, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CROWD = 10_000
AT_ONCE = 250
LIMIT = 4096  # the setting's default
EMPTY_SETTINGS = struct.pack(">BHBBI", 0, 0, 4, 0, 0)


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """This process holds the other end of all connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CROWD + 1000:
        pytest.skip(f"{CROWD} connections need more open files than the {hard} allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + 1000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """Calls twenty times a second, all the while, on a connection that it has from the start."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = order_service_pb2_grpc.OrderServiceStub(channel)
        self.latencies_s: list[float] = []

    async def run(self) -> None:
        while True:
            begun_s = time.perf_counter()
            await self._stub.CreateOrder(create_request(), timeout=5)
            self.latencies_s.append(time.perf_counter() - begun_s)
            await asyncio.sleep(0.05)


@asynccontextmanager
async def served_all_the_while(server: ServerProcess) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        await channel.channel_ready()
        client = Client(channel)
        async with asyncio.TaskGroup() as tasks:
            calling = tasks.create_task(client.run())
            yield client
            calling.cancel()


class Crowd:
    """Connections that are open, or were."""

    def __init__(self) -> None:
        self.peers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def come(self, address: str, saying: bytes) -> None:
        host, _, port = address.rpartition(":")

        async def connect() -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            self.peers.append((reader, writer))
            writer.write(saying)

        for _ in range(CROWD // AT_ONCE):
            await asyncio.gather(*(connect() for _ in range(AT_ONCE)), return_exceptions=True)

    @property
    def held(self) -> int:
        """How many the server has not closed."""
        return sum(not reader.at_eof() and reader.exception() is None for reader, _ in self.peers)

    def go(self) -> None:
        for _, writer in self.peers:
            writer.transport.abort()


@asynccontextmanager
async def crowd() -> AsyncIterator[Crowd]:
    everybody = Crowd()
    try:
        yield everybody
    finally:
        everybody.go()


def memory_mb(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) // 1024


async def is_served(server: ServerProcess, *, timeout_s: float) -> None:
    """Returns when somebody new gets an answer."""
    async with asyncio.timeout(timeout_s), grpc.aio.insecure_channel(server.address) as channel:
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        await stub.ListOrders(pb.ListOrdersRequest(page_size=1), wait_for_ready=True)


async def test_ten_thousand_connections_that_say_nothing(tmp_path: Path) -> None:
    environment = {"ORDERFLOW_HANDSHAKE_TIMEOUT_S": "5"}
    async with (
        server_process(tmp_path, environment=environment) as server,
        served_all_the_while(server) as client,
        crowd() as peers,
    ):
        await peers.come(server.address, b"")
        assert peers.held < LIMIT
        # Before any of them goes.
        await is_served(server, timeout_s=30)
        report("silent", server, client, peers)
        assert statistics.median(client.latencies_s) < 0.5


async def test_ten_thousand_connections_that_stay(tmp_path: Path) -> None:
    async with (
        server_process(tmp_path) as server,
        served_all_the_while(server) as client,
        crowd() as peers,
    ):
        before = memory_mb(server)
        await peers.come(server.address, PREFACE + EMPTY_SETTINGS)
        await asyncio.sleep(2)  # a while of calls with the crowd in place
        report("staying", server, client, peers)
        assert LIMIT // 2 < peers.held < LIMIT
        assert statistics.median(client.latencies_s) < 0.5
        assert memory_mb(server) - before < 600
        peers.go()
        await is_served(server, timeout_s=30)


def report(name: str, server: ServerProcess, client: Client, peers: Crowd) -> None:
    """For who runs it with -s."""
    latencies_ms = sorted(latency_s * 1000 for latency_s in client.latencies_s)
    print(  # noqa: T201
        f"\n{name}: {len(peers.peers)} connected, {peers.held} held, {memory_mb(server)} MB, "
        f"{len(latencies_ms)} calls, median {statistics.median(latencies_ms):.0f} ms, "
        f"slowest {latencies_ms[-1]:.0f} ms"
    )
    refusals = server.stderr.count("\n")
    print(f"{name}: {refusals} lines on stderr")  # noqa: T201


async def test_a_server_that_others_can_reach_does_not_start_unprotected(tmp_path: Path) -> None:
    code, told = await run_server_command(
        "serve", "--address", "0.0.0.0:0", "--database", str(tmp_path / "orders.db")
    )
    assert code == 1
    for name in ("address", "tls_certificate", "tls_key", "insecure"):
        assert name in told
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["ORDERFLOW_TLS_CERTIFICATE", "ORDERFLOW_TOKEN_KEYS"])
async def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    missing = str(tmp_path / "missing.pem")
    environment = {name: missing, "ORDERFLOW_DATABASE": str(tmp_path / "orders.db")}
    if name == "ORDERFLOW_TLS_CERTIFICATE":
        environment["ORDERFLOW_TLS_KEY"] = missing
    code, told = await run_server_command("serve", "--address", "127.0.0.1:0", **environment)
    assert code == 1
    assert missing in told
    assert "Traceback" not in told


async def test_tls_and_tokens_by_the_environment(tmp_path: Path) -> None:
    import trustme

    from fakes.authority import trusting

    ca, issuer, files = trustme.CA(), Issuer("k1"), Files(tmp_path)
    files.write(ca.issue_cert("127.0.0.1"))
    environment = {
        **{f"ORDERFLOW_{name.upper()}": str(path) for name, path in files.settings.items()},
        "ORDERFLOW_TOKEN_KEYS": str(write_set(tmp_path / "keys.json", issuer.jwk)),
    }
    async with (
        server_process(tmp_path, environment=environment, until_serves=False) as server,
        grpc.aio.secure_channel(server.address, trusting(ca)) as channel,
    ):
        stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
        request = create_request()
        answer = await stub.CreateOrder(
            request, metadata=bearer(issuer.token()), wait_for_ready=True, timeout=30
        )
        assert answer.order.customer_id == "alice"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateOrder(request, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert issuer.token() not in server.stdout + server.stderr
