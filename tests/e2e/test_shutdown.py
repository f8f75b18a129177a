"""How a server ends: by SIGTERM, by Ctrl-C in a terminal, at the second of either, and when it is
told to before it serves. Nothing is left behind, by one process and by several workers.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from harness import create_request, failure_of, until
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client import OrderClient
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.payments.simulator.server import PaymentSimulator
from processes import free_port, until_serving

pytestmark = pytest.mark.e2e

CALLS = 100
WATCHES = 50
GRACE_S = 10.0
AT_ONCE_S = 0.5
SLOW_GATEWAY = Faults(latency_median_s=1.5)
CTRL_C = b"\x03"

Call = asyncio.Task[pb.CreateOrderResponse]
Watch = Any
"""A grpc.aio.UnaryStreamCall, which is generic for the type checker only."""

both = pytest.mark.parametrize("workers", [1, 2])


@dataclass
class Terminal:
    """`serve` as the only program of a terminal of its own, as somebody's shell would start it.

    Attributes:
        keyboard: What is written here is typed.
    """

    process: asyncio.subprocess.Process
    address: str
    ops_address: str
    directory: Path
    keyboard: int

    def ctrl_c(self) -> None:
        os.write(self.keyboard, CTRL_C)

    def sigterm(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    @property
    def events(self) -> list[str]:
        lines = (self.directory / "stdout").read_text().splitlines()
        return [json.loads(line)["event"] for line in lines]

    @property
    def stderr(self) -> str:
        return (self.directory / "stderr").read_text()

    def family(self) -> list[int]:
        """The process and those that it started."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]


@asynccontextmanager
async def serving_in_a_terminal(
    directory: Path, *, workers: int, gateway: str, lame_duck_s: float = 0.0
) -> AsyncIterator[Terminal]:
    address, ops_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
    keyboard, screen = pty.openpty()
    with (directory / "stdout").open("wb") as stdout, (directory / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            # A session needs a terminal to have a Ctrl-C; `setsid --ctty` takes its input for one.
            *("setsid", "--ctty", "--wait", sys.executable, "-m", "orderflow_server", "serve"),
            *("--address", address, "--ops-address", ops_address),
            *("--database", str(directory / "orders.db"), "--gateway", gateway),
            *("--workers", str(workers), "--log-format", "json"),
            *("--set", f"grace_s={GRACE_S}", "--set", f"lame_duck_s={lame_duck_s}"),
            stdin=screen,
            stdout=stdout,
            stderr=stderr,
        )
    os.close(screen)
    terminal = Terminal(process, address, ops_address, directory, keyboard)
    try:
        async with OrderClient(terminal.address) as client:
            await until_serving(client)
        await until(lambda: "Ctrl-C stops it" in terminal.stderr, timeout_s=20)
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        os.close(keyboard)


@asynccontextmanager
async def calls_under_way(
    terminal: Terminal, gateway: PaymentSimulator
) -> AsyncIterator[tuple[list[Call], list[Watch]]]:
    """100 calls that wait for the gateway, and 50 watches that have told what there is."""
    async with AsyncExitStack() as stack:
        stubs = [
            order_service_pb2_grpc.OrderServiceStub(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        terminal.address,
                        # Connections of their own: the kernel deals them out to the workers.
                        options=[("grpc.use_local_subchannel_pool", 1), ("number", number)],
                    )
                )
            )
            for number in range(10)
        ]
        first = (await stubs[0].CreateOrder(create_request(), timeout=10)).order
        gateway.injector.faults = SLOW_GATEWAY
        watches = [
            stubs[number % 10].WatchOrder(pb.WatchOrderRequest(order_id=first.id))
            for number in range(WATCHES)
        ]
        for watch in watches:
            await watch.read()
        calls = [
            asyncio.ensure_future(stubs[number % 10].CreateOrder(create_request(), timeout=10))
            for number in range(CALLS)
        ]
        async with OrderClient(terminal.address) as client, asyncio.timeout(5):
            # All are stored: what they wait for is the gateway.
            while len([order async for order in client.list_orders(page_size=1000)]) <= CALLS:
                await asyncio.sleep(0.02)
        yield calls, watches
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def orders_in(database: Path) -> int:
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count: int = connection.execute("SELECT count(*) FROM orders").fetchone()[0]
    finally:
        connection.close()
    return count


@both
@pytest.mark.parametrize("stop", [Terminal.sigterm, Terminal.ctrl_c], ids=["SIGTERM", "Ctrl-C"])
async def test_calls_finish_watches_end_with_a_reason_and_nothing_is_left_behind(
    tmp_path: Path, stop: Callable[[Terminal], None], workers: int
) -> None:
    async with (
        PaymentSimulator() as gateway,
        serving_in_a_terminal(tmp_path, workers=workers, gateway=gateway.target) as terminal,
        calls_under_way(terminal, gateway) as (calls, watches),
    ):
        family = terminal.family()
        assert len(family) == (1 if workers == 1 else 1 + workers)
        begun_s = time.monotonic()
        stop(terminal)
        assert await terminal.process.wait() == 0
        took_s = time.monotonic() - begun_s
        print(  # noqa: T201  for who runs it with -s
            f"\n{CALLS} calls and {WATCHES} watches under way: ended with 0 after {took_s:.2f} s"
        )
        assert took_s < GRACE_S

        assert len({answer.order.id for answer in await asyncio.gather(*calls)}) == CALLS
        for watch in watches:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert failure_of(caught.value).reason == "SERVER_DRAINING"

        assert not any(map(runs, family))
        for address in (terminal.address, terminal.ops_address):
            with socket.socket() as probe:  # Nobody listens there any more.
                assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0
        assert names_in(tmp_path) == {"orders.db", "stdout", "stderr"}
        assert orders_in(tmp_path / "orders.db") == CALLS + 1
        assert terminal.events.count("stopped") == workers
        # No task that was destroyed while it was pending, no exception that nobody asked for.
        [_, after] = terminal.stderr.split("Ctrl-C stops it.")
        assert not after.strip()


@both
@pytest.mark.parametrize(
    ("stop", "number"),
    [(Terminal.sigterm, signal.SIGTERM), (Terminal.ctrl_c, signal.SIGINT)],
    ids=["SIGTERM", "Ctrl-C"],
)
async def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, stop: Callable[[Terminal], None], number: int, workers: int
) -> None:
    async with (
        PaymentSimulator() as gateway,
        serving_in_a_terminal(
            tmp_path, workers=workers, gateway=gateway.target, lame_duck_s=60
        ) as terminal,
        calls_under_way(terminal, gateway),
    ):
        family = terminal.family()
        stop(terminal)
        # Of the workers as well, whom the supervisor tells.
        stoppings = 1 if workers == 1 else 1 + workers
        await until(lambda: terminal.events.count("stopping") == stoppings)
        begun_s = time.monotonic()
        stop(terminal)
        assert await terminal.process.wait() == 128 + number
        await until(lambda: not any(map(runs, family)), timeout_s=AT_ONCE_S)
        took_s = time.monotonic() - begun_s
        print(f"\nended {took_s:.3f} s after the second signal")  # noqa: T201  with -s
        assert took_s < AT_ONCE_S
        assert orders_in(tmp_path / "orders.db") == CALLS + 1


async def test_a_lame_duck_says_so_and_serves_calls_as_before(tmp_path: Path) -> None:
    async with (
        PaymentSimulator() as gateway,
        serving_in_a_terminal(
            tmp_path, workers=1, gateway=gateway.target, lame_duck_s=2
        ) as terminal,
        grpc.aio.insecure_channel(terminal.address) as channel,
    ):
        # The library carries no types.
        health = health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        terminal.sigterm()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        await stub.CreateOrder(create_request(), timeout=2)
        # To the end: who watches would else ask again and again.
        assert await watch.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.CreateOrder(create_request(), timeout=2)
        assert await terminal.process.wait() == 0


async def test_told_to_stop_while_it_waits_for_the_database_it_stops(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()  # to its end
        writer.close()

    database = await asyncio.start_server(never_answers, "127.0.0.1", 0)
    port = database.sockets[0].getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "orderflow_server", "serve", "--log-format", "json"),
        *("--address", "127.0.0.1:0", "--ops-address", "127.0.0.1:0"),
        *("--database", f"postgresql://orders@127.0.0.1:{port}/orders"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            await asked.wait()
        process.send_signal(signal.SIGTERM)
        # Much sooner than the connection would be given up.
        async with asyncio.timeout(5):
            output, errors = await process.communicate()
        assert process.returncode == 0
        assert b"stopped before it served" in output
        assert not errors
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        database.close()
