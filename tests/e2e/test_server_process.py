"""The server as a process: how it starts, what it says, and how it ends.

What must hold of any change is not marked, and runs with the other tests: it serves, SIGTERM ends
it with 0, and kill -9 loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import pytest

from harness import create_request, failure_of
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_client import OrderClient, item, money
from processes import free_port, run_server_command, server_process

ITEMS = [item("BOOK-1", 2, money("12.50", "EUR"))]


async def test_it_prints_what_to_try_logs_json_and_exits_0_on_sigterm(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        order = await client.create_order(
            customer_id="alice", items=ITEMS, payment_token="tok_canary_99"
        )
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await server.process.wait() == 0
        lines = [json.loads(line) for line in server.stdout.splitlines()]
        [call] = [line for line in lines if line.get("method") == "CreateOrder"]
        assert (call["event"], call["code"], call["level"]) == ("call", "OK", "info")
        assert [line["event"] for line in lines][-1] == "stopped"
        for hint in ("order create", "order list", f"grpcurl -plaintext {server.address}"):
            assert hint in server.stderr
        assert "tok_canary_99" not in server.stdout + server.stderr

    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        assert await client.get_order(order.id) == order


@pytest.mark.e2e
async def test_sigterm_lets_running_calls_finish_and_ends_watches_with_a_reason(
    tmp_path: Path,
) -> None:
    port = free_port()
    gateway = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "orderflow_server", "gateway", "--port", str(port), "--latency-ms", "500"),
    )
    try:
        async with (
            server_process(tmp_path, arguments=["--gateway", f"127.0.0.1:{port}"]) as server,
            grpc.aio.insecure_channel(server.address) as channel,
        ):
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            first = (await stub.CreateOrder(create_request())).order
            watches = [stub.WatchOrder(pb.WatchOrderRequest(order_id=first.id)) for _ in range(10)]
            for watch in watches:
                await watch.read()
            calls = [asyncio.ensure_future(stub.CreateOrder(create_request())) for _ in range(50)]
            async with OrderClient(server.address) as other:
                # All 50 are stored and wait for the slow gateway.
                while len([o async for o in other.list_orders(page_size=100)]) < 51:
                    await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            answers = await asyncio.gather(*calls)
            assert len({answer.order.id for answer in answers}) == 50
            for watch in watches:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await watch.read()
                assert failure_of(caught.value).reason == "SERVER_DRAINING"
            async with asyncio.timeout(10):
                assert await server.process.wait() == 0
    finally:
        gateway.send_signal(signal.SIGINT)
        assert await gateway.wait() == 0


@pytest.mark.e2e
async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    lame = {"ORDERFLOW_LAME_DUCK_S": "60"}
    async with server_process(tmp_path, environment=lame) as server:
        server.process.send_signal(signal.SIGINT)
        while "stopping" not in server.stdout:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await server.process.wait() == 128 + signal.SIGINT


async def test_kill_9_loses_no_acknowledged_order(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        acknowledged: list[str] = []

        async def place() -> None:
            while server.process.returncode is None:
                order = await client.create_order(
                    customer_id="alice", items=ITEMS, payment_token="tok"
                )
                acknowledged.append(order.id)

        places = [asyncio.ensure_future(place()) for _ in range(20)]
        while len(acknowledged) < 100:
            await asyncio.sleep(0.01)
        server.process.kill()
        await server.process.wait()
        await asyncio.gather(*places, return_exceptions=True)

    async with server_process(tmp_path) as server, OrderClient(server.address) as client:
        stored = {order.id async for order in client.list_orders(page_size=1000)}
    assert set(acknowledged) <= stored


async def test_a_bad_setting_is_named_in_one_sentence() -> None:
    code, output = await run_server_command("serve", ORDERFLOW_GRACE_S="soon")
    assert code == 1
    assert "grace_s" in output
    assert "Traceback" not in output


@pytest.mark.e2e
async def test_a_taken_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server:
        other = tmp_path / "other.db"
        code, output = await run_server_command(
            "serve", "--address", server.address, "--database", str(other)
        )
    assert code == 1
    assert server.address in output
    assert "Traceback" not in output


@pytest.mark.e2e
async def test_a_taken_ops_port_is_said_in_one_sentence(tmp_path: Path) -> None:
    async with server_process(tmp_path) as server:
        code, output = await run_server_command(
            *("serve", "--address", "127.0.0.1:0", "--ops-address", server.ops_address),
            *("--database", str(tmp_path / "other.db")),
        )
    assert code == 1
    assert server.ops_address in output
    assert "Traceback" not in output


@pytest.mark.e2e
async def test_a_variable_of_opentelemetry_that_cannot_be_read_is_said_in_one_sentence() -> None:
    code, output = await run_server_command(
        "serve", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_MAX_QUEUE_SIZE="-1"
    )
    assert code == 1
    assert "OTEL_" in output
    assert "Traceback" not in output


@pytest.mark.e2e
async def test_a_database_that_cannot_be_opened_is_said_in_one_sentence(tmp_path: Path) -> None:
    code, output = await run_server_command(
        "serve", "--address", "127.0.0.1:0", "--database", str(tmp_path / "missing" / "orders.db")
    )
    assert code == 1
    assert output.count("cannot be opened") == 1
    assert "Traceback" not in output


@pytest.mark.e2e
async def test_the_simulators_faults_and_ledger_from_the_command_line(tmp_path: Path) -> None:
    port = free_port()
    target = f"127.0.0.1:{port}"
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, *("-m", "orderflow_server", "gateway", "--port", str(port))
    )
    try:
        async with (
            server_process(tmp_path, arguments=["--gateway", target]) as server,
            OrderClient(server.address) as client,
        ):
            order = await client.create_order(customer_id="a", items=ITEMS, payment_token="tok")
            code, output = await run_server_command("ledger", "--target", target)
            entry = json.loads(output)
            assert code == 0
            assert (entry["kind"], entry["reference"], entry["units"]) == ("CHARGE", order.id, 25)

            code, output = await run_server_command(
                "faults", "--target", target, "--decline-rate", "1"
            )
            assert json.loads(output)["decline_rate"] == 1.0
            code, output = await run_server_command(
                "faults", "--target", target, "--latency-ms", "1"
            )
            assert json.loads(output)["decline_rate"] == 1.0
            order = await client.create_order(customer_id="a", items=ITEMS, payment_token="tok")
            assert order.decline_reason
    finally:
        gateway.terminate()
        assert await gateway.wait() == 0
    code, output = await run_server_command("ledger", "--target", target)
    assert code == 1
    assert "Traceback" not in output
