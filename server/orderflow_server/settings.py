"""What can be set, where it comes from, and what it means.

Every setting is an environment variable ORDERFLOW_<NAME>; the flags of `orderflow-server serve`
come before those.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer, PlainValidator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from orderflow_server.storage.address import DatabaseAddress

Database = Annotated[
    DatabaseAddress,
    NoDecode,  # a text in the environment, not JSON
    PlainValidator(DatabaseAddress.parse),
    PlainSerializer(str),
]


class Settings(BaseSettings):
    """The settings of one server process."""

    model_config = SettingsConfigDict(env_prefix="ORDERFLOW_", frozen=True, extra="forbid")

    address: str = Field(
        "127.0.0.1:50051", description="Where to serve, host:port. Port 0 takes a free one."
    )
    ops_address: str = Field(
        "127.0.0.1:9464",
        description="Where /metrics, /livez and /readyz are answered over HTTP, host:port. "
        "Port 0 takes a free one.",
    )
    database: Database = Field(
        DatabaseAddress(path=Path("orderflow.db")),
        description="A SQLite file, which is made when it is missing, or the URL of a PostgreSQL "
        "database: postgresql://user:password@host/name.",
    )
    gateway: str = Field(
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
        description="The longest that CreateOrder and CancelOrder wait for the gateway, seconds. "
        "After that the background worker goes on.",
    )
    reserve_s: float = Field(
        0.2,
        ge=0,
        le=5,
        description="What is kept of a caller's deadline for the write and the answer, seconds.",
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
    nats: str = Field(
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

    def environment(self) -> dict[str, str]:
        """The variables from which another process reads these very settings."""
        prefix = self.model_config["env_prefix"]
        values = dict(self) | {"database": self.database.path or self.database.url}
        return {f"{prefix}{name.upper()}": str(value) for name, value in values.items()}

    @property
    def supervised(self) -> bool:
        """This process is one of several workers."""
        return self.ready_fd >= 0

    @property
    def lease_s(self) -> float:
        """How long an order belongs to the call that placed it: longer than the call waits."""
        return self.inline_payment_s + 2.0
