"""A client that speaks TLS and says who calls."""

from __future__ import annotations

import logging
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from grpc_health.v1 import health_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from rpc.scripted_service import (
    Refusal,
    ScriptedHealth,
    ScriptedOrderService,
    Served,
    reason,
    serving,
)
from typer.testing import CliRunner

from orderflow.v1 import order_service_pb2, order_service_pb2_grpc
from orderflow_client import (
    ORDER_CONTRACT,
    ClientTls,
    OrderClient,
    PermissionDenied,
    Unavailable,
    open_channel,
)
from orderflow_client.cli import app
from orderflow_client.telemetry import ClientTelemetry

CANARY = "s3cret.c4nary.t0ken"
ELSEWHERE = "orders.example:50051"


@dataclass(frozen=True)
class Files:
    """PEM files: of an authority, of a client it knows, of one it does not, and of another."""

    directory: Path
    authority: trustme.CA

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def other_ca(self) -> Path:
        return self.directory / "other-ca.pem"

    def of(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("certificates")
    authority, other = trustme.CA(), trustme.CA()
    made = Files(directory, authority)
    authority.cert_pem.write_to_path(made.ca)
    other.cert_pem.write_to_path(made.other_ca)
    for name, issuer in {"client": authority, "stranger": other}.items():
        certificate, key = made.of(name)
        issued = issuer.issue_cert(f"{name}@orders.example")
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
    return made


@asynccontextmanager
async def serving_tls(
    files: Files, name: str = "127.0.0.1", *, only_known_clients: bool = False
) -> AsyncIterator[Served]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    orders, health = ScriptedOrderService(), ScriptedHealth()
    order_service_pb2_grpc.add_OrderServiceServicer_to_server(orders, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)  # type: ignore[no-untyped-call]  # generated
    issued = files.authority.issue_cert(name)
    credentials = grpc.ssl_server_credentials(
        [(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())],
        root_certificates=files.ca.read_bytes() if only_known_clients else None,
        require_client_auth=only_known_clients,
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield Served(f"127.0.0.1:{port}", orders, health)
    finally:
        await server.stop(None)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as served:
        yield served


def tokens(served: Served) -> list[Any]:
    return [each.metadata.get("authorization") for each in served.orders.received]


class TestTls:
    async def test_a_server_whose_authority_is_known_is_called(self, files: Files) -> None:
        async with (
            serving_tls(files) as served,
            OrderClient(served.target, tls=ClientTls(ca=files.ca)) as client,
        ):
            assert (await client.get_order("one")).id == "one"
            assert await client.health() == "SERVING"

    async def test_a_server_of_another_authority_is_not(self, files: Files) -> None:
        async with serving_tls(files) as served:
            for ca in (files.other_ca, None):
                async with OrderClient(served.target, tls=ClientTls(ca=ca)) as client:
                    with pytest.raises(Unavailable, match="certificate is not trusted"):
                        await client.get_order("one")
            assert served.orders.received == []

    async def test_a_server_of_another_name_is_not_unless_that_is_expected(
        self, files: Files
    ) -> None:
        async with serving_tls(files, "orders.example") as served:
            async with OrderClient(served.target, tls=ClientTls(ca=files.ca)) as client:
                with pytest.raises(Unavailable):
                    await client.get_order("one")
            expecting = ClientTls(ca=files.ca, server_name="orders.example")
            async with OrderClient(served.target, tls=expecting) as client:
                await client.get_order("one")

    async def test_a_server_that_asks_for_a_certificate_gets_the_clients(
        self, files: Files
    ) -> None:
        async with serving_tls(files, only_known_clients=True) as served:
            certificate, key = files.of("client")
            mutual = ClientTls(ca=files.ca, certificate=certificate, key=key)
            async with OrderClient(served.target, tls=mutual) as client:
                await client.get_order("one")
            certificate, key = files.of("stranger")
            stranger = ClientTls(ca=files.ca, certificate=certificate, key=key)
            for refused in (stranger, ClientTls(ca=files.ca)):
                async with OrderClient(served.target, tls=refused) as client:
                    with pytest.raises(Unavailable):
                        await client.get_order("one")
            assert len(served.orders.received) == 1

    async def test_a_plaintext_server_is_not_called(self, files: Files, served: Served) -> None:
        async with OrderClient(served.target, tls=ClientTls(ca=files.ca)) as client:
            with pytest.raises(Unavailable):
                await client.get_order("one")

    async def test_a_server_of_tls_is_not_called_in_plaintext(self, files: Files) -> None:
        async with serving_tls(files) as served, OrderClient(served.target) as client:
            with pytest.raises(Unavailable):
                await client.get_order("one")


class TestFilesOfTls:
    @pytest.mark.parametrize("given", ["certificate", "key"])
    def test_a_certificate_and_its_key_go_together(self, given: str) -> None:
        with pytest.raises(ValueError, match="go together"):
            ClientTls(**{given: "client.pem"})

    async def test_one_that_is_missing_is_named(self, tmp_path: Path) -> None:
        tls = ClientTls(ca=tmp_path / "ca.pem")
        with pytest.raises(ValueError, match=r"ca\.pem cannot be read: No such file"):
            OrderClient("127.0.0.1:1", tls=tls)

    async def test_one_that_is_something_else_is_named(self, files: Files, tmp_path: Path) -> None:
        wrong = tmp_path / "wrong.pem"
        wrong.write_text("no certificate")
        certificate, key = files.of("client")
        for tls in (
            ClientTls(ca=wrong),
            ClientTls(certificate=wrong, key=key),
            ClientTls(certificate=certificate, key=wrong),
        ):
            with pytest.raises(ValueError, match=r"wrong\.pem"):
                tls.credentials()

    async def test_the_key_of_another_certificate_is_refused(self, files: Files) -> None:
        certificate, _ = files.of("client")
        _, key = files.of("stranger")
        with pytest.raises(ValueError, match="not a certificate and its key"):
            ClientTls(certificate=certificate, key=key).credentials()

    async def test_an_encrypted_key_is_refused_and_nobody_asked(
        self, files: Files, tmp_path: Path
    ) -> None:
        certificate, key = files.of("client")
        encrypted = tmp_path / "encrypted.key"
        encrypted.write_bytes(
            load_pem_private_key(key.read_bytes(), None).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
            )
        )
        with pytest.raises(ValueError, match="not encrypted"):
            ClientTls(certificate=certificate, key=encrypted).credentials()


class TestToken:
    async def test_every_call_says_who_calls(self, served: Served) -> None:
        async with OrderClient(served.target, token="a.b.c") as client:
            await client.get_order("one")
            await client.list_orders_page()
            assert [order async for order in client.watch_order("one")] == []
        assert tokens(served) == ["Bearer a.b.c"] * 3

    async def test_without_one_nothing_is_said(self, served: Served) -> None:
        async with OrderClient(served.target) as client:
            await client.get_order("one")
        assert tokens(served) == [None]

    async def test_each_attempt_has_the_token_of_its_moment(self, served: Served) -> None:
        given = iter(["one", "two"])
        served.orders.will("CancelOrder", Refusal(grpc.StatusCode.UNAVAILABLE, "no"))
        async with OrderClient(served.target, token=lambda: next(given)) as client:
            await client.cancel_order("one")
        assert tokens(served) == ["Bearer one", "Bearer two"]

    async def test_a_path_is_a_file_that_holds_it(self, served: Served, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_text("of.a.file\n")
        async with OrderClient(served.target, token=path) as client:
            await client.get_order("one")
        assert tokens(served) == ["Bearer of.a.file"]

    async def test_the_metadata_of_the_caller_stays_as_it_was(self, served: Served) -> None:
        own = grpc.aio.Metadata(("x-criticality", "high"))
        async with open_channel(served.target, contract=ORDER_CONTRACT, token="t") as channel:
            stub: Any = order_service_pb2_grpc.OrderServiceStub(channel)
            await stub.GetOrder(order_service_pb2.GetOrderRequest(order_id="one"), metadata=own)
        assert list(own) == [("x-criticality", "high")]
        [received] = served.orders.received
        assert received.metadata["x-criticality"] == "high"
        assert received.metadata["authorization"] == "Bearer t"

    async def test_it_goes_over_tls(self, files: Files) -> None:
        async with (
            serving_tls(files) as served,
            OrderClient(served.target, tls=ClientTls(ca=files.ca), token="t") as client,
        ):
            await client.get_order("one")
        assert tokens(served) == ["Bearer t"]

    async def test_it_does_not_leave_the_machine_in_plaintext(self, files: Files) -> None:
        with pytest.raises(ValueError, match="in plaintext") as caught:
            OrderClient(ELSEWHERE, token=CANARY)
        assert CANARY not in str(caught.value)
        async with (
            OrderClient(ELSEWHERE, token=CANARY, tls=ClientTls(ca=files.ca)),
            open_channel(
                ELSEWHERE, contract=ORDER_CONTRACT, token=CANARY, allow_insecure_token=True
            ),
        ):
            pass

    @pytest.mark.parametrize(
        "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED]
    )
    async def test_who_may_not_is_told_so_once(self, served: Served, code: grpc.StatusCode) -> None:
        served.orders.will("GetOrder", Refusal(code, "no", [reason("TOKEN_EXPIRED")]))
        async with OrderClient(served.target, token="t") as client:
            with pytest.raises(PermissionDenied) as caught:
                await client.get_order("one")
        assert (caught.value.code, caught.value.reason) == (code, "TOKEN_EXPIRED")
        assert len(served.orders.received) == 1

    async def test_it_is_in_no_error_span_metric_or_log_line(
        self, served: Served, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        spans, registry = InMemorySpanExporter(), CollectorRegistry()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(spans))
        telemetry = ClientTelemetry(tracer_provider=provider, registry=registry)
        served.orders.will("GetOrder", Refusal(grpc.StatusCode.UNAUTHENTICATED, "no"))
        sent = iter([CANARY, CANARY, f"{CANARY}\n"])
        async with OrderClient(
            served.target, token=lambda: next(sent), telemetry=telemetry
        ) as client:
            with pytest.raises(PermissionDenied) as denied:
                await client.get_order("one")
            await client.get_order("one")
            # gRPC itself would quote what it cannot send.
            with pytest.raises(ValueError, match="token") as refused:
                await client.cancel_order("one")
        assert tokens(served) == [f"Bearer {CANARY}"] * 2
        errors = [repr(denied.value), repr(denied.value.__cause__), repr(refused.value)]
        seen = [span.to_json() for span in spans.get_finished_spans()]
        assert len(seen) == 6
        for text in [*errors, *seen, generate_latest(registry).decode(), caplog.text, repr(client)]:
            assert CANARY not in text


class TestCommand:
    """The `orderflow` command takes the same."""

    async def run(
        self, served: Served, *arguments: str | Path, **environment: str | Path
    ) -> tuple[int | None, str]:
        process = await create_subprocess_exec(
            *(sys.executable, "-m", "orderflow_client", "order", "get", "one", "--json"),
            *map(str, arguments),
            env={
                "ORDERFLOW_TARGET": served.target,
                "COLUMNS": "200",
                **{name: str(value) for name, value in environment.items()},
            },
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await process.communicate()
        return process.returncode, (out + err).decode()

    async def test_by_options(self, files: Files, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text(CANARY)
        certificate, key = files.of("client")
        async with serving_tls(files, "orders.example", only_known_clients=True) as served:
            code, out = await self.run(
                served,
                *("--tls-ca", files.ca, "--tls-cert", certificate, "--tls-key", key),
                *("--tls-server-name", "orders.example", "--token-file", token),
            )
        assert (code, out.strip()) == (0, '{"id": "one"}')
        assert tokens(served) == [f"Bearer {CANARY}"]

    async def test_by_the_environment(self, files: Files, tmp_path: Path) -> None:
        token = tmp_path / "token"
        token.write_text(CANARY)
        certificate, key = files.of("client")
        async with serving_tls(files, "orders.example", only_known_clients=True) as served:
            code, _ = await self.run(
                served,
                ORDERFLOW_CLIENT_TLS_CA=files.ca,
                ORDERFLOW_CLIENT_TLS_CERT=certificate,
                ORDERFLOW_CLIENT_TLS_KEY=key,
                ORDERFLOW_CLIENT_TLS_SERVER_NAME="orders.example",
                ORDERFLOW_CLIENT_TOKEN_FILE=token,
            )
        assert code == 0
        assert tokens(served) == [f"Bearer {CANARY}"]

    async def test_tls_alone_trusts_the_well_known_authorities(self, files: Files) -> None:
        async with serving_tls(files) as served:
            code, out = await self.run(served, "--tls")
        assert code == 4
        assert "CERTIFICATE_VERIFY_FAILED" in out

    def test_what_cannot_be_used_is_wrong_usage(self, files: Files, tmp_path: Path) -> None:
        for option, value, said in (
            ("--tls-cert", files.of("client")[0], "go together"),
            ("--token-file", tmp_path / "none", "cannot be read"),
        ):
            # Wide enough for the whole sentence.
            ended = CliRunner(env={"COLUMNS": "300"}).invoke(
                app, ["order", "get", "one", option, str(value)]
            )
            assert ended.exit_code == 2
            assert said in ended.stderr
