"""What can be set, and what it means. Where the values come from: `configuration`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orderflow_server.addresses import nats_urls, served_address, split_host_port, target
from orderflow_server.security.exposure import only_this_machine
from orderflow_server.storage.address import DatabaseAddress

ENV_PREFIX = "ORDERFLOW_"
INTERNAL = frozenset({"ready_fd"})
"""Set for processes that start each other, not by people."""

_DATABASE_SCHEMES = ("postgresql://", "postgres://")
_LAST_PORT = 65_535


def _database(value: str | Path | DatabaseAddress) -> DatabaseAddress:
    address = DatabaseAddress.parse(value)
    if address.url is not None and not address.url.startswith(_DATABASE_SCHEMES):
        raise ValueError("it must be a file, or a URL that begins with postgresql://")
    return address


def _without_users(urls: str) -> str:
    return re.sub(r"//[^/@,]*@", "//", urls)


NatsUrls = Annotated[str, AfterValidator(nats_urls), PlainSerializer(_without_users)]
ServedAddress = Annotated[str, AfterValidator(served_address)]
Database = Annotated[
    DatabaseAddress,
    NoDecode,  # a text in the environment, not JSON
    PlainValidator(_database),
    PlainSerializer(str),
]


class Settings(BaseSettings):
    """The settings of one server process."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        frozen=True,
        extra="forbid",
        # There may be a password in it.
        hide_input_in_errors=True,
    )

    address: ServedAddress = Field(
        "127.0.0.1:50051", description="Where to serve, host:port. Port 0 takes a free one."
    )
    ops_address: ServedAddress = Field(
        "127.0.0.1:9464",
        description="Where /metrics, /livez and /readyz are answered over HTTP, host:port. "
        "Port 0 takes a free one.",
    )
    database: Database = Field(
        DatabaseAddress(path=Path("orderflow.db")),
        description="A SQLite file, which is made when it is missing, or the URL of a PostgreSQL "
        "database: postgresql://user:password@host/name. Of several hosts, host,host, the one that "
        "takes writes is used.",
    )
    gateway: Annotated[str, AfterValidator(target)] = Field(
        "",
        description="The payment gateway, host:port. Empty: a simulator inside this process, "
        "which forgets its ledger at the end.",
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="How many processes serve, on one port. Their ops ports follow each other.",
    )
    ready_fd: int = Field(
        -1,
        description="Set for the processes of several workers: where one of them says that it "
        "serves. It shares its port, and ends when its standard input does.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important lines that are written."
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON elsewhere."
    )
    slow_call_s: float = Field(
        1.0,
        gt=0,
        description="A call that takes longer than this is a warning in the log, seconds. "
        "Watches are not meant.",
    )
    inline_payment_s: float = Field(
        3.0,
        gt=0,
        le=60,
        description="The longest that CreateOrder and CancelOrder wait for a payment, reserve_s "
        "included, seconds. After that the background worker goes on.",
    )
    reserve_s: float = Field(
        0.2,
        ge=0,
        le=5,
        description="The part of a call's time that the gateway does not get, seconds: it is "
        "kept for saving the outcome and for the answer. Subtracted once, from the deadline or "
        "from inline_payment_s, whichever ends first.",
    )
    worker_payment_s: float = Field(
        10.0,
        gt=0,
        le=300,
        description="The longest that one attempt of the background worker waits for the gateway, "
        "seconds. One answer is waited for 2.5 s at first, and twice as long with each further "
        "attempt, so that a slow gateway is waited for.",
    )
    worker_recovery_per_s: float = Field(
        250.0,
        ge=1,
        description="The most orders a second that the background worker settles after the "
        "gateway was away. It begins with the usual rate and grows to this.",
    )
    worker_concurrency: int = Field(
        16, ge=1, le=1000, description="How many orders the background worker settles at once."
    )
    worker_poll_s: float = Field(
        0.5, gt=0, le=60, description="How often it looks for orders to settle, seconds."
    )
    worker_max_attempts: int = Field(
        1440,
        ge=1,
        description="After how many attempts an order is parked until a person releases it. The "
        "default takes about a day.",
    )
    nats: NatsUrls = Field(
        "",
        description="Where events are published: the URL of a NATS server with JetStream, or "
        "several with commas. Empty: nowhere.",
    )
    write_queue: int = Field(
        4096, ge=1, description="How many writes may wait; past that they are refused."
    )
    max_in_flight: int = Field(
        1000,
        ge=20,
        description="The most unary calls at once; the limit adapts itself between 8 and this.",
    )
    max_streams: int = Field(1000, ge=1, description="The most watches at once.")
    trust_callers: bool = Field(
        False,
        description="Callers may say in x-criticality how critical their calls are. Only where "
        "all callers are your own.",
    )
    max_request_bytes: int = Field(
        1024 * 1024, ge=1024, description="The largest request that is read, bytes."
    )
    lame_duck_s: float = Field(
        0.0,
        ge=0,
        le=60,
        description="How long a stopping server says NOT_SERVING before it refuses calls, "
        "seconds. Longer than the health check interval of whatever balances the load.",
    )
    grace_s: float = Field(
        10.0, ge=0, le=600, description="How long running calls may take to finish at the end."
    )

    # Security
    tls_certificate: Path | None = Field(
        None,
        description="The server's certificate and those up to its authority, a PEM file. Read "
        "again when it changes, as all files of certificates and keys are.",
    )
    tls_key: Path | None = Field(None, description="The private key of it, a PEM file.")
    tls_client_ca: Path | None = Field(
        None,
        description="The authorities of the clients' certificates, a PEM file. With it, nobody "
        "connects without a certificate of theirs.",
    )
    insecure: bool = Field(
        False,
        description="Serve without TLS on an address that other machines can reach: something "
        "around it keeps it safe.",
    )
    token_keys: Path | None = Field(
        None,
        description="The public keys of the callers' bearer tokens (JWT): a JWK set, or one key "
        "as PEM. With this or token_secret, nobody calls without a token.",
    )
    token_secret: Path | None = Field(
        None,
        description="A file with the secret of tokens that are signed with one (HS256), 32 bytes "
        "or more.",
    )
    token_audience: str = Field(
        "orderflow", min_length=1, description="Whom a token must be for (aud)."
    )
    token_issuer: str = Field(
        "", description="Who must have issued a token (iss). Empty: whoever has the key."
    )
    token_roles_claim: str = Field(
        "roles",
        min_length=1,
        description="The claim with the caller's roles: customer, auditor, operator.",
    )
    token_leeway_s: float = Field(
        30.0,
        ge=0,
        le=300,
        description="How far the clocks of the issuer and of this server may be apart, seconds.",
    )
    rate_limit_per_s: float = Field(
        0.0,
        ge=0,
        description="How often a second each caller may call, by the subject of its token; without "
        "tokens all callers are one. 0: as often as it likes.",
    )
    rate_limit_burst: int = Field(
        100, ge=1, description="How many calls it may make at once after a rest."
    )
    max_metadata_bytes: int = Field(
        16 * 1024, ge=1024, description="The largest metadata of a call that is read, bytes."
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="The most connections; more are closed at once. Fewer where the process may "
        "not have as many files open.",
    )
    max_streams_per_connection: int = Field(
        1000,
        ge=1,
        description="The most calls under way on one connection; more wait in the client.",
    )
    handshake_timeout_s: float = Field(
        10.0, gt=0, le=120, description="How long a new connection may take to say what it wants."
    )
    connection_age_s: float = Field(
        1800.0,
        ge=0,
        description="After about this time a connection takes no more calls and its client makes "
        "another, seconds: so calls spread over new servers. 0: never.",
    )
    stalled_stream_s: float = Field(
        30.0,
        gt=0,
        description="How long a watcher may leave a message unread before its call ends, seconds.",
    )

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        host, port = split_host_port(self.address)
        ops_host, first = split_host_port(self.ops_address)
        if first + self.workers - 1 > _LAST_PORT:
            raise ValueError(
                f"ops_address: {self.workers} workers have as many ports from {first} on, and "
                f"{_LAST_PORT} is the last"
            )
        if host == ops_host and first and port in range(first, first + self.workers):
            raise ValueError(f"address and ops_address must differ, and both have port {port}")
        return self

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together, and one is missing")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.token_keys is not None and self.token_secret is not None:
            raise ValueError("token_keys and token_secret exclude each other")
        host, _ = split_host_port(self.address)
        if not (self.tls_certificate or self.insecure or only_this_machine(host)):
            raise ValueError(
                f"address: {self.address} can be reached from other machines; set tls_certificate "
                "and tls_key, or say insecure"
            )
        return self

    def environment(self) -> dict[str, str]:
        """The variables from which another process reads these very settings."""
        values = dict(self) | {"database": self.database.path or self.database.url}
        return {variable(name): _text(each) for name, each in values.items() if each is not None}

    @property
    def supervised(self) -> bool:
        """This process is one of several workers."""
        return self.ready_fd >= 0

    @property
    def lease_s(self) -> float:
        """How long an order belongs to the call that placed it: longer than the call waits."""
        return self.inline_payment_s + 2.0

    @property
    def worker_lease_s(self) -> float:
        """How long an order belongs to the worker that leased it: longer than its attempt."""
        return self.worker_payment_s + 2.0


def variable(name: str) -> str:
    """The variable in the environment for the setting of this name."""
    return f"{ENV_PREFIX}{name.upper()}"


def _text(value: Any) -> str:
    return json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)
