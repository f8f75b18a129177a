"""A connection that fails says why in one sentence, without a secret."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme

from fakes.authority import expired
from orderflow_client import ClientTls, OrderClient, Unavailable
from orderflow_client.event_stream import connect
from orderflow_client.status import brief
from orderflow_client.unreachable import status_sentence

AUTHORITY = trustme.CA()


@asynccontextmanager
async def tls_server(leaf: trustme.LeafCert, *, mutual: bool = False) -> AsyncIterator[int]:
    server = grpc.aio.server()
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(leaf.private_key_pem.bytes(), chain)],
        AUTHORITY.cert_pem.bytes() if mutual else None,
        require_client_auth=mutual,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def failure(target: str, tls: ClientTls | None = None) -> Unavailable:
    async with OrderClient(target, tls=tls) as client:
        with pytest.raises(Unavailable) as caught:
            await client.health()
    return caught.value


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def refusing() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


async def test_a_refused_connection(refusing: int) -> None:
    error = await failure(f"127.0.0.1:{refusing}")
    assert error.message == f"cannot connect to 127.0.0.1:{refusing}: connection refused"
    assert isinstance(error.__cause__, grpc.aio.AioRpcError)
    # The server's log of the payment gateway: the cause, and none of the text.
    assert brief(error.__cause__) == "UNAVAILABLE: connection refused"


async def test_an_unknown_host_name() -> None:
    error = await failure("orders.invalid:50051")
    assert error.message == "cannot connect to orders.invalid:50051: host name not found"


async def test_an_untrusted_certificate(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with tls_server(AUTHORITY.issue_cert("127.0.0.1")) as port:
        error = await failure(f"127.0.0.1:{port}", ClientTls(ca=tmp_path / "other.pem"))
    assert error.message == (
        f"cannot connect to 127.0.0.1:{port}: the server's TLS certificate is not trusted"
    )


async def test_an_expired_certificate(trusted: Path) -> None:
    async with tls_server(expired(AUTHORITY, "127.0.0.1")) as port:
        error = await failure(f"127.0.0.1:{port}", ClientTls(ca=trusted))
    assert error.message.endswith(": the server's TLS certificate has expired")


async def test_the_certificate_of_another_host(trusted: Path) -> None:
    async with tls_server(AUTHORITY.issue_cert("other.example")) as port:
        error = await failure(f"127.0.0.1:{port}", ClientTls(ca=trusted))
    assert error.message.endswith(": the server's TLS certificate is for another host name")


@pytest.mark.parametrize("mutual", [False, True], ids=["plaintext", "no client certificate"])
async def test_a_server_that_closes_the_connection(trusted: Path, mutual: bool) -> None:
    async with tls_server(AUTHORITY.issue_cert("127.0.0.1"), mutual=mutual) as port:
        error = await failure(f"127.0.0.1:{port}", ClientTls(ca=trusted) if mutual else None)
    assert error.message.endswith(
        ": the server closed the connection; it may want TLS or another client certificate"
    )


async def test_tls_to_a_server_without_it(trusted: Path) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        error = await failure(f"127.0.0.1:{port}", ClientTls(ca=trusted))
    finally:
        await server.stop(None)
    assert error.message.endswith(": the server does not speak TLS")


@pytest.mark.parametrize(
    "text",
    ["connection refused", "", "no such order: last error: UNKNOWN: ipv4:1.2.3.4:5: timed out"],
)
def test_a_servers_own_text_is_left_as_it_is(text: str) -> None:
    assert status_sentence(text) == text


async def no_connection(*servers: str) -> str:
    with pytest.raises(ConnectionError) as caught:
        await connect(servers, name="tests", reconnect=False)
    return str(caught.value)


@pytest.mark.parametrize(
    ("server", "text"),
    [
        ("nats://u:s3cret@nats.invalid:4222", "nats.invalid:4222: host name not found"),
        ("nats://u:s3cret@127.0.0.1:port", "127.0.0.1:port: invalid address"),
        ("u:s3cret@127.0.0.1:99999", "127.0.0.1:99999: invalid address"),
    ],
)
async def test_nats_at_a_wrong_address(server: str, text: str) -> None:
    assert await no_connection(server) == f"NATS cannot be reached at {text}"


async def test_nats_that_refuses_the_connection(refusing: int) -> None:
    assert await no_connection(f"nats://u:s3cret@127.0.0.1:{refusing}") == (
        f"NATS cannot be reached at 127.0.0.1:{refusing}: connection refused"
    )


async def test_something_else_where_nats_should_be() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await no_connection(f"nats://127.0.0.1:{port}")
    assert text == f"NATS cannot be reached at 127.0.0.1:{port}: the server does not speak NATS"


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"-ERR 'Authorization Violation'\r\n", "credentials missing or wrong"),
        (b"-ERR 'User Authentication Expired'\r\n", "credentials missing or wrong"),
    ],
)
async def test_nats_that_refuses_the_credentials(sent: bytes, cause: str) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"auth_required":true,"max_payload":1048576}\r\n')
        await reader.readline()
        writer.write(sent)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await no_connection(f"nats://u:s3cret@127.0.0.1:{port}")
    assert text == f"NATS cannot be reached at 127.0.0.1:{port}: {cause}"
