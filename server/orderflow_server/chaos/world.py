"""The processes of one scenario: a gateway, servers, PostgreSQL, and the network between them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orderflow_client import OrderClient, OrderflowError
from orderflow_server.chaos.database import PostgresProcess, database
from orderflow_server.chaos.nats import NatsServer
from orderflow_server.chaos.processes import CannotStart, Process, own_command
from orderflow_server.chaos.prometheus import Prometheus, prometheus
from orderflow_server.chaos.proxy import Network
from orderflow_server.free_port import free_port
from orderflow_server.payments.simulator.client import set_faults
from orderflow_server.payments.simulator.faults import Faults
from orderflow_server.settings import ENV_PREFIX

_SERVING_TIMEOUT_S = 60.0
_POLL_S = 0.05


class Server:
    """An order server at an address that stays, whatever is done to it.

    Args:
        number: Names it.
        without: A policy to take from it, as in `victim`. Empty: none.
        settings: Variables of the environment.
        directory: For its log.
        clock_ahead_s: How much its wall clock is ahead of the right time.
    """

    def __init__(
        self,
        number: int,
        *,
        without: str,
        settings: Mapping[str, str],
        directory: Path,
        clock_ahead_s: float = 0.0,
    ) -> None:
        self.number = number
        self.address, self.ops_address = (f"127.0.0.1:{free_port()}" for _ in range(2))
        sabotage = ["--without", without] if without else []
        if clock_ahead_s:
            sabotage += ["--clock-ahead", str(clock_ahead_s)]
        own = {"ADDRESS": self.address, "OPS_ADDRESS": self.ops_address, "LOG_LEVEL": "warning"}
        self._process = Process(
            [sys.executable, "-m", "orderflow_server.chaos.victim", *sabotage, "serve"],
            log=directory / f"server-{number}.log",
            environment=_environment({**own, **settings}),
        )

    async def start(self) -> None:
        """SERVING when this returns.

        Raises:
            CannotStart: It ends by itself, or is not SERVING after a minute.
        """
        await self._process.start()
        try:
            async with asyncio.timeout(_SERVING_TIMEOUT_S), OrderClient(self.address) as client:
                while not await _serves(client):
                    if not self._process.runs:
                        raise self._failed("ended")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise self._failed("does not serve") from error

    @property
    def exit_code(self) -> int | None:
        """Return the code that its process ended with. None: it runs, or never did."""
        return self._process.exit_code

    async def kill(self) -> None:
        await self._process.kill()

    async def stop(self) -> None:
        await self._process.stop()

    def block_its_loop(self) -> None:
        """For as long as `victim` says."""
        self._process.send(signal.SIGUSR1)

    def _failed(self, how: str) -> CannotStart:
        return CannotStart(f"server {self.number} {how}: {self._process.last_words()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All of it, running.

    Attributes:
        gateway: Where the payment simulator is.
        usual: Its faults while nothing else is said.
        network: What the servers reach the database through, where the scenario says so.
        nats: What they publish to, where events are expected; elsewhere it does not run.
        prometheus: What looks at the servers, where alerts are to be seen.
        standby: Follows the database, where the scenario asks for one.
        file: The servers' database where that is SQLite.
        gateway_log: What the payment simulator writes, one JSON object a line.
        database_setting: The servers' own.
    """

    gateway: str
    usual: Faults
    servers: Sequence[Server]
    database: PostgresProcess
    network: Network
    nats: NatsServer
    prometheus: Prometheus | None
    standby: PostgresProcess | None
    file: Path
    gateway_log: Path
    database_setting: str

    @property
    def target(self) -> str:
        """What a client is given."""
        return "ipv4:" + ",".join(server.address for server in self.servers)


@asynccontextmanager
async def world(
    directory: Path,
    *,
    seed: int,
    servers: int,
    usual: Faults,
    settings: Mapping[str, str],
    through_proxy: bool,
    events: bool,
    alerts: bool,
    without: str,
    with_standby: bool = False,
    sqlite: bool = False,
    clocks_ahead_s: Mapping[int, float] = {},
) -> AsyncIterator[World]:
    """SERVING when this yields; nothing is left of it afterwards.

    Args:
        directory: For logs and data.
        seed: Of the gateway's faults.
        servers: How many.
        usual: What is usual at the gateway.
        settings: More of the servers, by name.
        through_proxy: The servers reach the database through the network that can be cut.
        events: The servers publish events to NATS.
        alerts: Prometheus looks at the servers.
        without: A policy to take from the servers. Empty: none.
        with_standby: A second PostgreSQL follows the first; the servers know both.
        sqlite: The servers' database is a file.
        clocks_ahead_s: How much the wall clocks of servers are ahead, by their numbers.

    Raises:
        CannotStart: Some part is missing or does not start.
    """
    gateway = f"127.0.0.1:{free_port()}"
    gateway_log = directory / "gateway.log"
    file = directory / "orders.db"
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(database(directory / "postgres"))
        standby = None
        if with_standby:
            standby = await stack.enter_async_context(
                database(directory / "standby", standby_of=postgres)
            )
        network = await stack.enter_async_context(Network(postgres.port).serving())
        nats = NatsServer(directory)
        if events:
            stack.push_async_callback(nats.stop)
            await nats.start()
        simulator = Process(
            own_command(
                *("gateway", "--port", gateway.rpartition(":")[2], "--seed", str(seed)),
                *("--log-format", "json"),
            ),
            log=gateway_log,
            environment=_environment({}),
        )
        stack.push_async_callback(simulator.stop)
        await simulator.start()
        port = network.port if through_proxy else postgres.port
        hosts = ",".join(
            f"127.0.0.1:{each}" for each in (port, *([standby.port] if standby is not None else []))
        )
        url = f"postgresql://postgres@{hosts}/postgres"
        if standby is not None:
            url += "?target_session_attrs=read-write"
        database_setting = str(file) if sqlite else url
        its = {
            "DATABASE": database_setting,
            "GATEWAY": gateway,
            **({"NATS": nats.url} if events else {}),
            **settings,
        }
        all_servers = [
            Server(
                number,
                without=without,
                settings=its,
                directory=directory,
                clock_ahead_s=clocks_ahead_s.get(number, 0.0),
            )
            for number in range(1, servers + 1)
        ]
        looks = None
        if alerts:
            targets = [server.ops_address for server in all_servers]
            looks = await stack.enter_async_context(prometheus(directory / "prometheus", targets))
        for server in all_servers:
            stack.push_async_callback(server.stop)
        # At the same time: migrations are safe then.
        async with asyncio.TaskGroup() as starting:
            for server in all_servers:
                starting.create_task(server.start())
        if looks is not None:
            await looks.until_all_is_well()
        await set_faults(gateway, usual)
        yield World(
            gateway=gateway,
            usual=usual,
            servers=all_servers,
            database=postgres,
            network=network,
            nats=nats,
            prometheus=looks,
            standby=standby,
            file=file,
            gateway_log=gateway_log,
            database_setting=database_setting,
        )


async def _serves(client: OrderClient) -> bool:
    try:
        return await client.health() == "SERVING"
    except OrderflowError:
        return False  # Nothing listens there yet.


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's own, but no settings that are not meant."""
    inherited = {name: it for name, it in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return inherited | {f"{ENV_PREFIX}{name}": value for name, value in settings.items()}
