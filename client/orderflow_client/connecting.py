"""The options that every command has which talks to a server: where it is, TLS, and who calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from orderflow_client.client import OrderClient
from orderflow_client.tls import ClientTls


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What was said of the server and the caller.

    Attributes:
        target: Where the server is.
        tls: How it is spoken to. None: in plaintext.
        token_file: Holds the caller's token. None: there is none.
    """

    target: str
    tls: ClientTls | None
    token_file: Path | None

    def open(self) -> OrderClient:
        """A client of that server.

        Raises:
            typer.BadParameter: A file cannot be used, or the token would be sent in plaintext.
        """
        try:
            return OrderClient(self.target, tls=self.tls, token=self.token_file)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options, and what they say as its `connection`."""

    @wraps(command)
    def with_options(**arguments: Any) -> None:
        said = {name: arguments.pop(name) for name in _OPTIONS}
        command(connection=_connection(**said), **arguments)

    own = inspect.signature(command, eval_str=True).parameters
    # What typer reads.
    with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # any function may have one
        [*(each for name, each in own.items() if name != "connection"), *_OPTIONS.values()]
    )
    return with_options


def _connection(
    *,
    target: Annotated[
        str, typer.Option("--target", envvar="ORDERFLOW_TARGET", help="The server's address.")
    ] = "127.0.0.1:50051",
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            envvar="ORDERFLOW_CLIENT_TLS",
            help="Speak TLS, which the other --tls options imply.",
        ),
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="ORDERFLOW_CLIENT_TLS_CA",
            help="The authorities of servers' certificates, PEM. Default: the well-known ones.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="ORDERFLOW_CLIENT_TLS_CERT", help="Your own certificate, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="ORDERFLOW_CLIENT_TLS_KEY", help="Its private key, PEM."),
    ] = None,
    tls_server_name: Annotated[
        str | None,
        typer.Option(
            envvar="ORDERFLOW_CLIENT_TLS_SERVER_NAME",
            help="The name in the server's certificate. Default: that in the address.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="ORDERFLOW_CLIENT_TOKEN_FILE",
            help="Holds the token that says who you are. Not sent in plaintext to other machines.",
        ),
    ] = None,
) -> Connection:
    of_tls = (tls_ca, tls_cert, tls_key, tls_server_name)
    if not tls and all(value is None for value in of_tls):
        return Connection(target=target, tls=None, token_file=token_file)
    try:
        spoken = ClientTls(
            ca=tls_ca, certificate=tls_cert, key=tls_key, server_name=tls_server_name
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return Connection(target=target, tls=spoken, token_file=token_file)


_OPTIONS = inspect.signature(_connection, eval_str=True).parameters
