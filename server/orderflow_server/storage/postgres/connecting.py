"""How the service's connections are set up, and what the database's errors mean."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from orderflow_server.orders.errors import InvalidValue, StoreUnavailable
from orderflow_server.orders.ports import Clock
from orderflow_server.storage.address import DatabaseAddress
from orderflow_server.storage.dialect import PoisonedBatch
from orderflow_server.storage.postgres.reasons import reason_of

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

_READ_WRITE = "read-write"
_CHECKS = {
    # Of a standby it is on, too, whatever the default.
    _READ_WRITE: "SELECT current_setting('transaction_read_only') = 'off'",
    "primary": "SELECT NOT pg_is_in_recovery()",
}
"""What a server must be to be used, by the URL's `target_session_attrs`."""
_SIGN_OF_LIFE = "SELECT true"
_CHECK_INTERVAL_S = 1.0
"""For how long a check counts, and so for how long a former primary may be read."""
_CHECK_TIMEOUT_S = 1.0

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


@dataclass(slots=True)
class _Trust:
    """How much is known about a connection's server.

    Attributes:
        made: How many failures the connector had counted when the connection was begun.
        checked: The same of its last check.
        checked_s: When that was.
    """

    made: int
    checked: int
    checked_s: float


class Connection(asyncpg.Connection):
    """A connection of a `Connector`."""

    trust: _Trust


class Connector:
    """Makes connections to the server of one database that takes writes, and checks them.

    After a failover a connection may still lead to the former primary, which answers reads with
    the orders that it had.
    """

    def __init__(
        self,
        address: DatabaseAddress,
        options: PostgresOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._options = options
        self._clock = clock
        self._failures = 0
        self._demotion = 0  # Connections made before that many failures are not used again.
        self._first_host = 0

    def __str__(self) -> str:
        return str(self._address)

    async def connect(self, *, timeout_s: float | None = None) -> Connection:
        """A connection on which no statement takes longer than `timeout_s`.

        The hosts of the URL are tried one after the other, beginning with the one that was last
        connected to, each for `connect_timeout_s`.

        Raises:
            StoreUnavailable: It cannot be made.
        """
        made = self._failures
        reasons: dict[str, None] = {}  # A set in its order.
        cause: Exception | None = None
        try:
            candidates = self._candidates(timeout_s)
            for index in range(len(candidates)):
                host = (self._first_host + index) % len(candidates)
                try:
                    connection = await asyncpg.connect(
                        connection_class=Connection, **candidates[host]
                    )
                except asyncpg.ClientConfigurationError:
                    raise
                except FAILURES as error:
                    reasons[reason_of(error)] = None
                    cause = error
                except asyncio.CancelledError:
                    # A caller with little time gave up: the next begins with another host.
                    self._first_host = host + 1
                    raise
                else:
                    self._first_host = host
                    connection.trust = _Trust(made, made, self._clock())
                    return connection
        except ValueError as error:
            if str(error).startswith("root certificate file"):
                raise StoreUnavailable(
                    f"the database {self} cannot be connected to: TLS failed: "
                    f"{str(error).splitlines()[0]}"
                ) from error
            # Its text repeats what it did not understand, which may be part of a password.
            raise StoreUnavailable(f"the URL {self} cannot be understood") from None
        self._failures += 1
        raise StoreUnavailable(
            f"the database {self} cannot be connected to: {'; '.join(reasons)}"
        ) from cause

    def _candidates(self, timeout_s: float | None) -> list[dict[str, Any]]:
        """Return the arguments of `asyncpg.connect`, for each host of the URL.

        Given a URL of several hosts, asyncpg would spend all of its timeout on the first that does
        not answer.

        Raises:
            StoreUnavailable: The address is not PostgreSQL's.
            ValueError: It cannot be understood.
        """
        url = self._address.url
        if url is None or not url.startswith(_POSTGRES):
            raise StoreUnavailable(f"{self} is neither a file nor a URL postgresql://...")
        timeout_ms = str(round((timeout_s or self._options.statement_timeout_s) * 1000))
        shared = {
            "timeout": self._options.connect_timeout_s,
            "target_session_attrs": self._session_attributes,
            "server_settings": {
                **SERVER_SETTINGS,
                "statement_timeout": timeout_ms,
                # A process that was stopped in the middle must not keep its locks for ever.
                "idle_in_transaction_session_timeout": timeout_ms,
            },
        }
        parts = urlsplit(url)
        user, at, hosts = parts.netloc.rpartition("@")
        if "," not in hosts:
            return [{"dsn": url, **shared}]
        return [
            {"dsn": parts._replace(netloc=f"{user}{at}{host}").geturl(), **shared}
            for host in hosts.split(",")
        ]

    @property
    def _session_attributes(self) -> str:
        given = parse_qs(urlsplit(self._address.url or "").query).get("target_session_attrs")
        return given[-1] if given else os.environ.get("PGTARGETSESSIONATTRS", _READ_WRITE)

    async def checked(self, connection: Connection) -> bool:
        """Return whether a connection may be used: it lives, and its server takes writes.

        Asks the server unless that was done within the last second and nothing has failed since.
        When its server was demoted or is silent, all connections that were made before are found
        unusable without asking.
        """
        trust = connection.trust
        if trust.made < self._demotion:
            return False
        failures, now_s = self._failures, self._clock()
        if trust.checked == failures and now_s - trust.checked_s < _CHECK_INTERVAL_S:
            return True
        with cut_off_after(_CHECK_TIMEOUT_S, connection) as cut_off:
            try:
                usable = await self.takes_writes(connection)
            except FAILURES:
                self._failures += 1
                if cut_off():
                    self._demotion = self._failures
                return False
        trust.checked, trust.checked_s = failures, now_s
        return usable

    async def takes_writes(self, connection: Connection) -> bool:
        """Ask a connection's server whether it is what the URL asks for, by default read-write.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError: The server did not answer.
        """
        check = _CHECKS.get(self._session_attributes, _SIGN_OF_LIFE)
        usable: bool = await connection.fetchval(check)
        if not usable:
            self._failures += 1
            self._demotion = self._failures
        return usable

    @contextmanager
    def failing(self, how: str) -> Iterator[None]:
        """Tells of the database's failures as StoreUnavailable, naming it without its secrets."""
        try:
            yield
        except FAILURES as error:
            self._failures += 1
            raise StoreUnavailable(f"the database {self} {how}: {reason_of(error)}") from error

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


@contextmanager
def cut_off_after(timeout_s: float, connection: Connection) -> Iterator[Callable[[], bool]]:
    """End the connection when the block takes longer, and with it whatever waits for an answer.

    To cancel instead would be to wait for the server to agree, which it may never do. Yields a
    function that returns whether that happened.
    """
    happened = False

    def cut_off() -> None:
        nonlocal happened
        happened = True
        connection.terminate()

    timer = asyncio.get_running_loop().call_later(timeout_s, cut_off)
    try:
        yield lambda: happened
    finally:
        timer.cancel()
