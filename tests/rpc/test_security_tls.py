"""TLS: who gets a connection, and certificates that change while the service runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from structlog.testing import capture_logs

from fakes.authority import Files, expired, trusting
from fakes.tokens import Issuer, bearer, write_set
from harness import Service, create_request, running_service
from orderflow.v1 import order_service_pb2 as pb
from orderflow.v1 import order_service_pb2_grpc
from orderflow_server.security.reloading import UnusableFile

CA, OTHER_CA = trustme.CA(), trustme.CA()
SERVER = CA.issue_cert("localhost", "127.0.0.1")
CLIENT = CA.issue_cert("client.example")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write(SERVER)
    CA.cert_pem.write_to_path(files.client_ca)
    return files


@asynccontextmanager
async def serving(files: Files, *, mutual: bool = False, **settings: Any) -> AsyncIterator[Service]:
    settings |= files.settings
    if mutual:
        settings["tls_client_ca"] = files.client_ca
    async with running_service(files.directory, **settings) as service:
        yield service


async def outcome(
    service: Service, credentials: grpc.ChannelCredentials | None, **options: Any
) -> grpc.StatusCode:
    """What a call of a new connection comes to."""
    address = service.app.address
    channel = (
        grpc.aio.insecure_channel(address)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials)
    )
    async with channel:
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        try:
            await stub.ListOrders(pb.ListOrdersRequest(), timeout=15, **options)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


async def test_who_trusts_the_servers_authority_is_served(files: Files) -> None:
    async with serving(files) as service:
        assert await outcome(service, trusting(CA)) is OK
        assert await outcome(service, trusting(OTHER_CA)) is UNAVAILABLE
        assert await outcome(service, None) is UNAVAILABLE
        assert await outcome(service, trusting(CA)) is OK


async def test_with_an_authority_for_clients_nobody_connects_without_its_certificate(
    files: Files,
) -> None:
    async with serving(files, mutual=True) as service:
        assert await outcome(service, trusting(CA, CLIENT)) is OK
        for leaf in (
            None,
            OTHER_CA.issue_cert("client.example"),
            expired(CA, "client.example"),
        ):
            assert await outcome(service, trusting(CA, leaf)) is UNAVAILABLE
        assert await outcome(service, None) is UNAVAILABLE
        assert await outcome(service, trusting(CA, CLIENT)) is OK


def old_tls(most: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    CA.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, most
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # which is what we test
async def test_tls_before_1_2_is_refused(files: Files) -> None:
    async with serving(files) as service:
        host, _, port = service.app.address.rpartition(":")
        _, writer = await asyncio.open_connection(
            host, int(port), ssl=old_tls(ssl.TLSVersion.TLSv1_2)
        )
        writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection(host, int(port), ssl=old_tls(ssl.TLSVersion.TLSv1_1))


async def test_a_new_certificate_counts_from_the_next_connection_on(files: Files) -> None:
    async with (
        serving(files) as service,
        grpc.aio.secure_channel(service.app.address, trusting(CA)) as channel,
    ):
        stub = order_service_pb2_grpc.OrderServiceStub(channel)
        await stub.CreateOrder(create_request())
        files.write(OTHER_CA.issue_cert("127.0.0.1"))
        assert await outcome(service, trusting(CA)) is UNAVAILABLE
        assert await outcome(service, trusting(OTHER_CA)) is OK
        # The connection that there was goes on.
        assert len((await stub.ListOrders(pb.ListOrdersRequest())).orders) == 1


async def test_a_new_authority_for_clients_counts_from_the_next_connection_on(files: Files) -> None:
    theirs = OTHER_CA.issue_cert("client.example")
    async with serving(files, mutual=True) as service:
        assert await outcome(service, trusting(CA, theirs)) is UNAVAILABLE
        OTHER_CA.cert_pem.write_to_path(files.client_ca)
        assert await outcome(service, trusting(CA, theirs)) is OK
        assert await outcome(service, trusting(CA, CLIENT)) is UNAVAILABLE


async def test_a_broken_new_certificate_leaves_the_old_one_and_is_told_once(files: Files) -> None:
    async with serving(files) as service:
        with capture_logs() as lines:
            files.settings["tls_certificate"].write_text("half a certif")
            for _ in range(3):
                assert await outcome(service, trusting(CA)) is OK
        refused = [line for line in lines if line["log_level"] == "error"]
        assert len(refused) == 1
        assert str(files.settings["tls_certificate"]) in refused[0]["error"]


async def test_a_server_whose_certificate_cannot_be_used_does_not_start(files: Files) -> None:
    CLIENT.private_key_pem.write_to_path(files.settings["tls_key"])
    with pytest.raises(UnusableFile, match="not that of the certificate"):
        async with serving(files):
            raise AssertionError("it must not start")


async def test_tokens_are_asked_for_behind_tls(files: Files) -> None:
    issuer = Issuer("k1")
    keys = write_set(files.directory / "keys.json", issuer.jwk)
    async with serving(files, token_keys=keys) as service:
        assert await outcome(service, trusting(CA)) is grpc.StatusCode.UNAUTHENTICATED
        assert await outcome(service, trusting(CA), metadata=bearer(issuer.token())) is OK


async def test_on_an_address_that_others_reach_tls_is_enough(files: Files) -> None:
    async with serving(files, address="0.0.0.0:0") as service:
        port = service.app.address.rpartition(":")[2]
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", trusting(CA)) as channel:
            stub = order_service_pb2_grpc.OrderServiceStub(channel)
            await stub.ListOrders(pb.ListOrdersRequest(), timeout=15)
