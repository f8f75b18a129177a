"""Why a database cannot be connected to is said in one sentence, without secrets."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from pathlib import Path

import asyncpg
import pytest

from fakes.postgres import postgres_process
from orderflow_server.orders.errors import StoreUnavailable
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.migrations.steps import behind
from orderflow_server.storage.opening import open_failure, open_store_for
from orderflow_server.storage.postgres import PostgresOptions
from orderflow_server.storage.postgres.connecting import Connector
from orderflow_server.storage.postgres.reasons import reason_of
from processes import run_server_command

SECRET = "hunter2"


def server_error(kind: type[asyncpg.PostgresError], message: str) -> asyncpg.PostgresError:
    return kind(f"{message}\nDETAIL:  Key (customer_id)=({SECRET}) exists.")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            asyncpg.InvalidPasswordError("password authentication failed for user"),
            "the user or password was rejected",
        ),
        (
            server_error(asyncpg.InvalidAuthorizationSpecificationError, 'role "x" does not exist'),
            'role "x" does not exist',
        ),
        (
            server_error(asyncpg.InvalidCatalogNameError, 'database "x" does not exist'),
            'database "x" does not exist',
        ),
        (asyncpg.TooManyConnectionsError("sorry"), "the server has no free connection"),
        (asyncpg.ConnectionDoesNotExistError("closed"), "the connection was lost"),
        (
            asyncpg.CannotConnectNowError("the database system is starting up"),
            "the database system is starting up",
        ),
        (asyncpg.UniqueViolationError(), "UniqueViolationError"),
        (asyncpg.InterfaceError(SECRET), "the driver failed (InterfaceError)"),
        (
            asyncpg.TargetServerAttributeNotMatched("none"),
            "the server is read-only or a standby",
        ),
        (socket.gaierror(-2, "Name or service not known"), "the host name cannot be resolved"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "the connection was refused"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), ..."),
            "the connection was refused",
        ),
        (ConnectionResetError(), "the connection was lost"),
        (TimeoutError(), "no answer in time"),
        (
            ConnectionError('PostgreSQL server at "db:1" rejected SSL upgrade'),
            "TLS failed: the server does not offer it",
        ),
        (ssl.SSLError(1, "wrong version number"), "TLS failed: no handshake"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/.pgpass"),
            "/root/.pgpass: Permission denied",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory"),
            "a file or socket that the URL names does not exist",
        ),
        (OSError(errno.ENETUNREACH, "unreachable"), "Network is unreachable"),
        (ZeroDivisionError(SECRET), "ZeroDivisionError"),
    ],
)
def test_a_reason_is_short_and_has_no_secrets(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason
    assert SECRET not in reason_of(error)


async def test_a_root_certificate_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/x?sslmode=verify-full"
    with pytest.raises(StoreUnavailable) as failure:
        await Connector(DatabaseAddress.parse(url), PostgresOptions()).connect()
    assert str(failure.value).endswith(
        'TLS failed: root certificate file "/nowhere/.postgresql/root.crt" does not exist or '
        "cannot be accessed"
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"postgresql://u:{SECRET}@no-such-host.invalid/x", "the host name cannot be resolved"),
        (f"postgresql://u:{SECRET}@127.0.0.1:1/x", "the connection was refused"),
        (
            f"postgresql://u:{SECRET}@/x?host=/nowhere",
            "a file or socket that the URL names does not exist",
        ),
        (
            f"postgresql://u:{SECRET}@127.0.0.1:1/x?sslmode=verify-full&sslrootcert=/nowhere/ca",
            "a file or socket that the URL names does not exist",
        ),
    ],
)
async def test_a_failed_connection_says_why_once(url: str, reason: str) -> None:
    address = DatabaseAddress.parse(url)
    with pytest.raises(StoreUnavailable) as failure:
        async with open_store_for(address):
            pass
    text = open_failure(address, failure.value)
    assert text == f"the database {address} cannot be connected to: {reason}"
    assert SECRET not in text


async def test_a_server_that_is_silent_says_so() -> None:
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    address = DatabaseAddress.parse(f"postgresql://u:{SECRET}@127.0.0.1:{port}/x")
    with pytest.raises(StoreUnavailable, match="no answer in time"):
        await Connector(address, PostgresOptions(connect_timeout_s=0.1)).connect()
    for writer in writers:
        writer.close()
    silent.close()
    await silent.wait_closed()


async def test_a_server_without_tls_says_so(url: str) -> None:
    address = DatabaseAddress.parse(f"{url}?sslmode=require")
    with pytest.raises(StoreUnavailable, match="TLS failed: the server does not offer it"):
        await Connector(address, PostgresOptions()).connect()


async def test_a_file_that_cannot_be_opened_says_why_once(tmp_path: Path) -> None:
    address = DatabaseAddress(path=tmp_path / "missing" / "orders.db")
    with pytest.raises(StoreUnavailable) as failure:
        async with open_store_for(address):
            pass
    text = open_failure(address, failure.value)
    assert text == (
        f"cannot open the database {address}: the file cannot be created: No such file or directory"
    )


def test_a_failure_that_does_not_name_the_database_gets_its_name() -> None:
    address = DatabaseAddress(path=Path("orders.db"))
    with pytest.raises(StoreUnavailable) as failure:
        behind("9999")
    text = open_failure(address, failure.value)
    assert text.startswith("cannot open the database orders.db: the schema is at 9999")


@pytest.mark.e2e
@pytest.mark.parametrize("command", ["serve", "migrate", "parked"])
async def test_commands_say_in_one_sentence_that_the_password_was_rejected(command: str) -> None:
    with postgres_process() as server:
        server.require_passwords()
        url = server.url.replace("postgres@", f"postgres:{SECRET}@")
        code, output = await run_server_command(
            command, "--database", url, *(["--address", "127.0.0.1:0"] * (command == "serve"))
        )
    assert code == 1
    assert output.strip() == (
        f"orderflow-server: the database {DatabaseAddress.parse(url)} cannot be connected to: "
        "the user or password was rejected"
    )
