"""That our servers bear the pings of our channels, all thirty times as fast."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from orderflow_client.channel import KEEPALIVE_TIME_MS
from orderflow_server.payments.simulator.server import SERVER_OPTIONS
from orderflow_server.rpc.connections import CallerLimits, connection_options

pytestmark = pytest.mark.e2e

SPEED = 30  # No faster: gRPC sends one ping a second at most.
LASTS_S = 6.0
"""For how long the call waits: a server that bears no pings hangs up at the fifth, after 4 s."""

SERVER = connection_options(
    CallerLimits(
        request_bytes=1000,
        metadata_bytes=1000,
        connections=10,
        streams_per_connection=10,
        handshake_timeout_s=10,
        connection_age_s=None,
    ),
    longest_call_s=1,
)

Options = Sequence[tuple[str, int]]


class _Silent(grpc.GenericRpcHandler):
    """Answers no call, whatever its name."""

    def service(self, _call: Any) -> Any:
        async def never(_request: bytes, _context: Any) -> bytes:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        return grpc.unary_unary_rpc_method_handler(never)


def faster(options: Options) -> list[tuple[str, int]]:
    return [(name, value // SPEED if "ping" in name else value) for name, value in options]


@pytest.mark.parametrize("options", [SERVER, SERVER_OPTIONS], ids=["orders", "simulator"])
async def test_a_channel_that_waits_for_an_answer_is_not_hung_up_on(options: Options) -> None:
    server = grpc.aio.server(options=faster(options))
    server.add_generic_rpc_handlers((_Silent(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pinging = [
        ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS // SPEED),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=pinging) as channel:
            call: Any = channel.unary_unary("/a/b")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=LASTS_S, wait_for_ready=True)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await server.stop(0)
