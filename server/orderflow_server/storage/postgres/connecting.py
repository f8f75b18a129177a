"""How the service's connections are set up, and what the database's errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from orderflow_server.orders.errors import InvalidValue, StoreUnavailable
from orderflow_server.orders.ports import Clock
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.dialect import PoisonedBatch

_POSTGRES = ("postgresql://", "postgres://")

SERVER_SETTINGS = {
    "application_name": "orderflow",
    # All statements are looked up by an index, whatever the values: planning each time would cost
    # more than running it, and a plan made while the table was small must not be a scan.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""What every connection asks for."""

_DATA_ERRORS = (
    ValueError,  # found before it was sent; a text that is not Unicode among them
    TypeError,
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
)
"""The command is to blame. Any other error: the database, the network or the moment is."""

FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # TimeoutError among them
)
"""What a database, or the way to it, fails with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresOptions:
    """How the database is used.

    One process has as many connections as its engine has writers, and `readers`, and one that
    listens: all of them together, over all replicas, must be fewer than the server's
    max_connections.

    Attributes:
        readers: How many reads may be under way at once.
        connect_timeout_s: How long a connection may take to be made.
        statement_timeout_s: How long a batch or a read may take that no deadline ends before.
        upgrade_timeout_s: How long a step of the schema may take, or the wait for the replica
            that takes it.
        now: The clock of leases, delays and ages, for tests. None: the server's `now()`.
    """

    readers: int = 8
    connect_timeout_s: float = 5.0
    statement_timeout_s: float = 10.0
    upgrade_timeout_s: float = 600.0
    now: Clock | None = None

    def __post_init__(self) -> None:
        if self.readers < 1:
            raise ValueError("readers must be at least 1")
        if min(self.connect_timeout_s, self.statement_timeout_s, self.upgrade_timeout_s) <= 0:
            raise ValueError("timeouts must be positive")


class Connector:
    """Makes connections to one database."""

    def __init__(self, address: DatabaseAddress, options: PostgresOptions) -> None:
        self._address = address
        self._options = options

    def __str__(self) -> str:
        return str(self._address)

    async def connect(self, *, timeout_s: float | None = None) -> asyncpg.Connection:
        """A connection on which no statement takes longer than `timeout_s`.

        Raises:
            StoreUnavailable: It cannot be made.
        """
        with self.failing("cannot be connected to"):
            try:
                return await asyncpg.connect(**self.arguments(timeout_s=timeout_s))
            except ValueError:
                # Its text repeats what it did not understand, which may be part of a password.
                raise StoreUnavailable(f"the URL {self} cannot be understood") from None

    def arguments(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """What `asyncpg.connect` wants.

        Raises:
            StoreUnavailable: The address is not PostgreSQL's.
        """
        if self._address.url is None or not self._address.url.startswith(_POSTGRES):
            raise StoreUnavailable(f"{self} is neither a file nor a URL postgresql://...")
        timeout_s = timeout_s or self._options.statement_timeout_s
        timeout_ms = str(round(timeout_s * 1000))
        return {
            "dsn": self._address.url,
            "timeout": self._options.connect_timeout_s,
            "server_settings": {
                **SERVER_SETTINGS,
                "statement_timeout": timeout_ms,
                # A process that was stopped in the middle must not keep its locks for ever.
                "idle_in_transaction_session_timeout": timeout_ms,
            },
        }

    @contextmanager
    def failing(self, how: str) -> Iterator[None]:
        """Tells of the database's failures as StoreUnavailable, naming it without its secrets."""
        try:
            yield
        except FAILURES as error:
            raise StoreUnavailable(f"the database {self} {how}") from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Likewise; data that cannot be written is PoisonedBatch."""
        with self.failing("could not write"):
            try:
                yield
            except _DATA_ERRORS as error:
                defect = isinstance(error, asyncpg.IntegrityConstraintViolationError)
                raise PoisonedBatch(invalid_value=not defect) from error

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise a refused parameter as InvalidValue, other failures as StoreUnavailable."""
        with self.failing("could not be read"):
            try:
                yield
            except asyncpg.DataError as error:
                raise InvalidValue("a value cannot be searched for") from error
